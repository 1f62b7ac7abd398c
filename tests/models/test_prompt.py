"""Prompts say which of their tensors belong to tokens and which to images, whatever their shapes are."""

import torch

from visualquality.models.prompt import Positions, Prompt, collate, pad


def prompt(length: int, images: int = 1) -> Prompt:
    """A prompt with as many image values as tokens: by shape alone the two cannot be told apart."""
    tokens = {
        "input_ids": torch.arange(1, length + 1),
        "mm_token_type_ids": torch.ones(length, dtype=torch.long),
    }
    image = {
        "pixel_values": torch.arange(length * images, dtype=torch.float),
        "image_grid_thw": torch.tensor([[1, length, 1]] * images),
    }
    return Prompt(tokens, image)


def test_only_tokens_grow_when_text_follows():
    longer = prompt(3).followed_by([7, 8])
    assert longer.tokens["input_ids"].tolist() == [1, 2, 3, 7, 8]
    assert longer.tokens["mm_token_type_ids"].tolist() == [1, 1, 1, 0, 0]  # text has type 0
    assert torch.equal(longer.images["pixel_values"], prompt(3).images["pixel_values"])
    assert len(longer) == 5


def test_only_tokens_are_padded():
    for side, ids in (("left", [0, 0, 1, 2]), ("right", [1, 2, 0, 0])):
        batch = collate([prompt(4), prompt(2)], 0, side)
        assert batch.tokens["input_ids"][1].tolist() == ids
        assert batch.mask.tolist() == [[1, 1, 1, 1], [int(token > 0) for token in ids]]
        assert batch.images["pixel_values"].tolist() == [0, 1, 2, 3, 0, 1]


def test_rows_of_a_batch_keep_their_own_images():
    batch = collate([prompt(4, images=2), prompt(2, images=2)], 0)
    part = batch.rows(slice(1, 2), None)
    assert part.tokens["input_ids"].tolist() == [[1, 2]]  # without the padding of the longer one
    assert part.images["pixel_values"].tolist() == [0, 1, 2, 3]
    assert part.images["image_grid_thw"].tolist() == [[1, 2, 1]] * 2
    assert len(batch.repeated(3)) == 6


def test_positions_after_a_prompt_count_alike_on_all_axes():
    plain = Positions(torch.zeros(2, 5), torch.tensor([5, 3]))
    assert plain.after(torch.arange(2)).tolist() == [[5, 6], [3, 4]]
    axes = Positions(torch.zeros(3, 2, 5), torch.tensor([5, 3]))
    assert axes.after(torch.tensor([0, 0, 1])).tolist() == [[[5, 5, 6], [3, 3, 4]]] * 3


def test_padding_goes_to_the_side_that_is_asked_for():
    rows = [torch.tensor([1]), torch.tensor([2, 3, 4])]
    assert pad(rows, 9, side="left").tolist() == [[9, 9, 1], [2, 3, 4]]
    assert pad(rows, 9, side="right").tolist() == [[1, 9, 9], [2, 3, 4]]
