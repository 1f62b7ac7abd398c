"""The authors' way of scoring, written from the description in their README: what our speed is compared with.

Hugging Face `generate` on batches of 32: left padding, top-k 50, at most 512 new tokens. Then the score is read from
the text. (Where no score can be read, their code draws a random one; here the image has none.) Their released weights
draw with temperature 0.1 and a repetition penalty of 1.05, which `--preset authors` has; here it is temperature 1 and
no penalty.
"""

from collections.abc import Sequence

import torch

from visualquality import response
from visualquality.data.images import open_image
from visualquality.models.load import VisionLanguageModel
from visualquality.models.prompt import collate, encode_prompt

BATCH = 32


@torch.no_grad()
def score(
    vlm: VisionLanguageModel, paths: Sequence[str], returned: int = 1, max_new_tokens: int = 512
) -> list[float | None]:
    """A score for each sequence, `returned` sequences per image, those of an image in a row. None: not readable."""
    tokenizer = vlm.processor.tokenizer
    question = response.prompt_text(vlm.prompt or "paper")
    scores = []
    for start in range(0, len(paths), BATCH):
        images = [open_image(path) for path in paths[start : start + BATCH]]
        prompts = collate(
            [encode_prompt(vlm.processor, [image], question) for image in images],
            tokenizer.pad_token_id,
        )
        sequences = vlm.model.generate(
            **prompts.to(vlm.model.device).inputs(),
            do_sample=True,
            temperature=1.0,
            top_k=50,
            max_new_tokens=max_new_tokens,
            num_return_sequences=returned,
            pad_token_id=tokenizer.pad_token_id,
        )
        completions = sequences[:, prompts.length :]
        texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
        scores += [response.read(text).score for text in texts]
    return scores
