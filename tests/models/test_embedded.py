"""The weights that come with the package."""

import pytest
import torch

from conftest import picture
from visualquality import Scorer
from visualquality.models.load import EMBEDDED, EMBEDDED_NAMES, load


def test_weights_are_small_and_have_a_card():
    # The wheel leaves out the folder of nano-base.
    in_the_wheel = [path for path in EMBEDDED.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in in_the_wheel) <= 25_000_000
    card = (EMBEDDED / "README.md").read_text()
    for word in ("BIQ2021", "Kodak", "BSDS500", "AGIQA-3K", "Apache-2.0", "SRCC"):
        assert word in card


def test_both_models_share_what_was_never_trained_and_differ_in_the_rest():
    nano, base = (load(name, device="cpu").model.state_dict() for name in EMBEDDED_NAMES)
    assert base.keys() < nano.keys()
    # nano looks at more, and has readers of quality.
    parts = ("stages.5", "stages.6", "tones", "readers", "quality")
    more = tuple(f"model.vision.{part}." for part in parts)
    assert all(name.startswith(more) for name in nano.keys() - base.keys())
    same = {name for name in base if torch.equal(nano[name], base[name])}
    kept = ("tower.stem.", *(f"tower.blocks.{i}." for i in range(5)))
    # nano's are a mean of equal weights, which may round to another float16.
    for name in base:
        if any(part in name for part in kept):
            torch.testing.assert_close(nano[name], base[name], rtol=2**-10, atol=1e-6)
    trained = ("tower.blocks.15.", "tower.head.", "proj.weight")
    assert not {name for name in nano if any(part in name for part in trained)} & same


def test_nano_alone_is_extended():
    for name, extended in (("nano", True), ("nano-base", False)):
        vlm = load(name, device="cpu")
        assert vlm.model.config.extended == extended
        assert vlm.processor.image_processor.extended == extended


@pytest.mark.parametrize("name", EMBEDDED_NAMES)
def test_answers_are_readable(name):
    ratings = Scorer(name, samples=4)([picture(i, (160, 120)) for i in range(6)])
    samples = [sample for rating in ratings for sample in rating.samples]
    assert sum(sample is not None for sample in samples) >= 0.85 * len(samples)


def test_digits_are_one_token_each():
    """So that a score can be read off the distribution over digits."""
    tokenizer = load("nano", device="cpu").processor.tokenizer
    for text in ("3.45", "1.00", "<answer>4.07</answer>"):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        assert [t for t in tokens if t.isdigit()] == [c for c in text if c.isdigit()]
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
