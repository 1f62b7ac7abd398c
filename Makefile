# Two commands matter: `make demo` and `make test`. All make .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# With both cores busy, spinning OpenMP threads make training several times slower.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0

.PHONY: install demo test bench golden torture lint format clean

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

# The long form of tests/torture: 20 ends of training and 50 kills of scoring at random moments.
torture: install
	$(BIN)/python tests/torture/kills.py --json runs/torture/kills.json

# Style, order of imports, form, and types.
lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
