"""Seconds per photo of 12 megapixels, with images read and resized in worker processes against between batches.

python benchmarks/loading.py [--json benchmarks/results/loading.json]
"""

import tempfile
from pathlib import Path

from common import finish, medians, parser, row
from photos import tiles
from PIL import Image

from visualquality.models.encode import collate
from visualquality.models.generate import eos_token_ids, prefill
from visualquality.models.load import load
from visualquality.quiet import quiet_libraries
from visualquality.response import prompt_text
from visualquality.score.expect import ScoreVocabulary, expected_scores
from visualquality.score.prepare import Preparation, Question, prepare_all


def main() -> None:
    args = parser(__doc__).parse_args()
    quiet_libraries()
    vlm = load("nano")
    vocabulary = ScoreVocabulary(vlm.processor.tokenizer, eos_token_ids(vlm.model, vlm.processor))
    question = Question(prompt_text("paper", False), opening=tuple(vocabulary.opening))
    preparation = Preparation(vlm.processor, (question,))
    count, repeats = (16, 1) if args.short else (48, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in tiles(folder, count, 1000, ".jpg"):
            Image.open(path).resize((4000, 3000)).save(path, quality=90)
        paths = sorted(map(str, folder.iterdir()))

        def run(inline: int) -> None:
            # The first `inline` images are read in this process: with all of them, no worker starts.
            for image in prepare_all(preparation, paths, inline=inline):
                expected_scores(prefill(vlm.model, collate([image.prompts[0]], 0)), vocabulary)

        run(4)  # warm-up
        ours, theirs = medians(lambda: run(4), lambda: run(count), repeats)
    rows = [row(f"expect, {count} photos of 4000 × 3000", ours / count, theirs / count, "s/image")]
    finish("Reading images in workers against in turn", rows, args)


if __name__ == "__main__":
    main()
