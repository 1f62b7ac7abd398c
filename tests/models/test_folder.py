"""A model's folder from a stranger: nothing in it is run, no pickle is opened, and each fault is one sentence."""

import builtins
import json
import os
import pickle
import shutil
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file, save_file

from visualquality.errors import UserError
from visualquality.models.folder import ADAPTER, check_folder
from visualquality.models.load import TRAINED_WITH, load
from visualquality.score.scorer import Scorer

DEEP = '{"a":' * 100_000


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def folder(model_folder, tmp_path):
    """A small nano that may be damaged."""
    return shutil.copytree(model_folder("nano"), tmp_path / "model")


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch):
    """transformers asks whether to run the code of a folder, and would take a yes from a pipe."""

    def asked(*_):
        raise AssertionError("somebody was asked whether to run code")

    monkeypatch.setattr(builtins, "input", asked)


def change(folder, file, **values):
    """Set fields of a JSON file; `a__b` is b within a."""
    path = folder / file
    settings = json.loads(path.read_text()) if path.exists() else {}
    for name, value in values.items():
        *parents, leaf = name.split("__")
        node = settings
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    path.write_text(json.dumps(settings))


def refused(folder, reason):
    with pytest.raises(UserError, match=reason) as found:
        load(str(folder), device="cpu")
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize("how", ["torch", "pickle"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "model.pth", "model.pkl"])
def test_weights_in_a_pickle_are_never_opened(how, name, folder, tmp_path):
    mark = tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    with (folder / name).open("wb") as file:
        torch.save({"w": Evil(mark)}, file) if how == "torch" else pickle.dump(Evil(mark), file)
    refused(folder, f"has its weights as {name}, a pickle, which may hold code")
    assert not mark.exists()


def test_a_sound_pickle_of_weights_is_refused_too(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(folder, "a pickle")


def test_a_pickle_beside_safetensors_does_not_matter(folder, tmp_path):
    mark = tmp_path / "ran"
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin"):
        torch.save({"w": Evil(mark)}, folder / name)
    load(str(folder), device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../../../etc/passwd", "x.bin", "/x.safetensors"])
def test_an_index_names_safetensors_files_in_the_folder(name, folder):
    (folder / "model.safetensors").unlink()
    change(folder, "model.safetensors.index.json", weight_map={"a": name})
    refused(folder, "its index names")


CODE = {
    "config.json": {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.C"},
    },
    "tokenizer_config.json": {
        "auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]},
        "tokenizer_class": "E",
    },
    "processor_config.json": {"auto_map": {"AutoProcessor": "evil.C"}, "processor_class": "E"},
}


@pytest.mark.parametrize("files", [*[[name] for name in CODE], list(CODE)], ids=str)
def test_code_of_a_folder_is_never_run(files, folder, tmp_path):
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(mark)!r})\nclass C: pass\n")
    for name in files:
        change(folder, name, **CODE[name])
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "evil.py", folder / "custom_generate" / "generate.py")
    # Some of it is refused, the rest has no effect.
    with suppress(UserError):
        load(str(folder), device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.mkdir('x') }}", "unsafe"),
        ("{{ lipsum.__globals__['os'].system('true') }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% for %}", "Expected an expression"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{{ a.b.c }}", "undefined"),
        ("{{ raise_exception('no') }}", "no"),
        ("nothing about an image", "a chat template or a token for images that is not its own"),
        ("", "does not have a chat template"),
    ],
)
def test_a_chat_template_runs_in_a_sandbox_and_its_faults_are_told_before_the_first_image(
    template, reason, folder
):
    (folder / "chat_template.jinja").write_text(template)
    refused(folder, reason)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", DEEP, b"\xff\xfe", b"{\xff}"])
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "processor_config.json", "generation_config.json"]
)
def test_a_damaged_file_is_named(name, content, folder):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name} (is not JSON|does not hold one JSON object)"):
        check_folder(folder)


@pytest.mark.parametrize(
    "header", [b"", b"\xff" * 100, b"\xff" * 7 + b"\x7f{}", b"\x02\0\0\0\0\0\0\0{x"]
)
def test_damaged_weights_are_named(header, folder):
    (folder / "model.safetensors").write_bytes(header)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        check_folder(folder)


@pytest.mark.parametrize("value", [-1, 10**6, 10**12, 10**30])
@pytest.mark.parametrize(
    "field",
    ["hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "intermediate_size"],
)
def test_numbers_that_do_not_fit_the_weights_are_named(field, value, folder):
    change(folder, "config.json", **{f"text_config__{field}": value})
    with pytest.raises(UserError, match=f"{field} is {value}, which does not fit the weights"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        *[("config.json", "cell", wrong) for wrong in (0, -1, 1.5, "x", 10**12)],
        *[("config.json", "max_cells", wrong) for wrong in (0, "x")],
        *[("config.json", "image_token_id", wrong) for wrong in (10**7, 1.5)],
        *[("config.json", "text_config__num_attention_heads", wrong) for wrong in (0, "x", None)],
        *[("generation_config.json", "eos_token_id", wrong) for wrong in (-5, "x", 10**30)],
        *[(TRAINED_WITH, "prompt", wrong) for wrong in ("nope", ["paper"], 3)],
        (TRAINED_WITH, "reference", "yes"),
    ],
)
def test_a_wrong_value_is_one_sentence(file, field, value, folder):
    change(folder, file, **{field: value})
    refused(folder, ".")


@pytest.mark.parametrize(
    ("family", "file", "field", "value"),
    [
        ("qwen2_5_vl", "config.json", "vision_config__window_size", 0),
        ("nano", "config.json", "max_cells", None),
    ],
)
def test_a_model_that_fails_on_an_image_is_one_sentence(
    family, file, field, value, model_folder, tmp_path, pictures
):
    broken = shutil.copytree(model_folder(family), tmp_path / "broken")
    change(broken, file, **{field: value})
    scorer = Scorer(str(broken), samples=1, max_new_tokens=2, device="cpu")
    with pytest.raises(UserError, match="fails on images"):
        scorer(pictures[0])


def adapter(folder, **changes):
    """A folder with an adapter of nano, of rank 2 on one layer."""
    shutil.rmtree(folder)
    folder.mkdir()
    settings = {"base_model_name_or_path": "nano", "peft_type": "LORA", "r": 2, "lora_alpha": 2}
    settings |= {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (folder / ADAPTER).write_text(json.dumps({**settings, **changes}))
    place = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    weights = {
        f"{place}.lora_A.weight": torch.zeros(2, 4),
        f"{place}.lora_B.weight": torch.zeros(4, 2),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base_model_name_or_path": None}, "does not name the base model"),
        ({"base_model_name_or_path": 3}, "does not name the base model"),
        ({"base_model_name_or_path": ["nano"]}, "does not name the base model"),
        ({"base_model_name_or_path": "../../nowhere"}, "no model '../../nowhere'"),
        ({"base_model_name_or_path": "."}, r"'\.'|\."),
        ({"peft_type": "XLORA"}, "is no plain LoRA"),
        ({"peft_type": "NOPE"}, "is no plain LoRA"),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "is no plain LoRA"),
        ({"r": 10**8}, "the rank does not fit its weights"),
        ({"r": -1}, "the rank does not fit its weights"),
        ({"rank_pattern": {"q_proj": 10**9}}, "the rank does not fit its weights"),
        ({"target_modules": [3]}, "this can load"),
        ({"lora_alpha": "x"}, "this can load"),
    ],
)
def test_a_hostile_adapter_is_one_sentence(changes, reason, folder):
    refused(adapter(folder, **changes), reason)


def test_an_adapter_in_a_pickle_is_never_opened(folder, tmp_path):
    mark = tmp_path / "ran"
    adapter(folder)
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"w": Evil(mark)}, folder / "adapter_model.bin")
    refused(folder, r"adapter_model\.bin, a pickle")
    assert not mark.exists()


def test_the_base_of_an_adapter_is_checked_as_well(folder, tmp_path, model_folder):
    mark = tmp_path / "ran"
    base = shutil.copytree(model_folder("nano"), tmp_path / "base")
    (base / "model.safetensors").unlink()
    torch.save({"w": Evil(mark)}, base / "pytorch_model.bin")
    refused(adapter(folder, base_model_name_or_path=str(base)), "a pickle")
    assert not mark.exists()
