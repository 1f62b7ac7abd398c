"""Seconds per photo of 12 megapixels, with images read and resized in worker processes against between batches.

python benchmarks/loading.py [--json benchmarks/results/loading.json]
"""

import tempfile
from pathlib import Path

from common import finish, medians, parser, row
from photos import tiles
from PIL import Image

from visualquality.models.digits import DigitTree, score_distribution
from visualquality.models.generate import eos_token_ids, prefill
from visualquality.models.load import load
from visualquality.models.prompt import collate
from visualquality.process import quiet_libraries
from visualquality.response import prompt_text
from visualquality.score.reading import Question, Reader, read_images


def main() -> None:
    args = parser(__doc__).parse_args()
    quiet_libraries()
    vlm = load("nano")
    tree = DigitTree(vlm.processor.tokenizer, eos_token_ids(vlm.model, vlm.processor))
    question = Question(prompt_text("paper", False), tuple(tree.opening))
    reader = Reader(vlm.processor, (question,))
    count, repeats = (16, 1) if args.short else (48, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in tiles(folder, count, 1000, ".jpg"):
            Image.open(path).resize((4000, 3000)).save(path, quality=90)
        paths = sorted(map(str, folder.iterdir()))

        def run(first: int) -> None:
            # The first images are read in this process: with all of them, no worker starts.
            for image in read_images(reader, paths, first=first, shares_processor=False):
                score_distribution(prefill(vlm.model, collate([image.prompts[0]], 0)), tree)

        run(4)  # warm-up
        ours, theirs = medians(lambda: run(4), lambda: run(count), repeats)
    rows = [row(f"expect, {count} photos of 4000 × 3000", ours / count, theirs / count, "s/image")]
    finish("Reading images in workers against in turn", rows, args)


if __name__ == "__main__":
    main()
