"""Peak memory of scoring one photo of 99 and of 200 megapixels, which is the whole process's.

    python benchmarks/large_images.py [--json benchmarks/results/large_images.json]

Each photo is scored in a process of its own, in this package's mode `expect` where the model is nano. The unit is MB
(10⁶ bytes) of resident memory at its highest, with all libraries that are loaded; `seconds` are those of reading and
scoring. What a program takes that scores nothing (imports, weights) is the row of a photo of 0.1 megapixels.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from common import clean_exit, finish, in_fresh_process, parser, resident_megabytes, row
from PIL import Image
from skimage import data

SIZES = {"0.1": (384, 256), "99": (11_500, 8_600), "200": (16_384, 12_208)}  # megapixels -> sides
MODELS = ("niqe", "brisque", "nano")
KINDS = {"JPEG": {"quality": 90}, "PNG": {"compress_level": 1}}


def write_photo(path: Path, kind: str, size: tuple[int, int]) -> float:
    """A photo of this size, made of a small one beside itself again and again, with a little noise of its own."""
    Image.MAX_IMAGE_PIXELS = None
    small = np.asarray(Image.fromarray(data.coffee()).resize((1024, 768)))
    width, height = size
    rng = np.random.default_rng(0)
    image = Image.new("RGB", size)
    for top in range(0, height, 768):
        band = np.tile(small, (1, -(-width // 1024), 1))[: height - top, :width]
        noise = rng.integers(-4, 5, band.shape, dtype=np.int16)
        noisy = (band + noise).clip(0, 255).astype(np.uint8)
        image.paste(Image.fromarray(noisy), (0, top))
    image.save(path, kind, **KINDS[kind])
    return 0.0


def peak(model: str, path: Path) -> list[float]:
    """MB at the highest, and seconds; one image in this process."""
    from visualquality.process import quiet_libraries
    from visualquality.score.raters import make_rater
    from visualquality.score.settings import score_settings

    quiet_libraries()
    mode = {"mode": "expect"} if model == "nano" else {}
    rater = make_rater(model, score_settings(max_image_pixels=10**9, **mode))
    started = time.perf_counter()
    (rating,) = rater.rate([str(path)])
    seconds = time.perf_counter() - started
    assert rating.score is not None, rating.problem
    return [resident_megabytes("VmHWM"), seconds]


def main() -> None:
    args = parser(__doc__).parse_args()
    rows = []
    with clean_exit(), tempfile.TemporaryDirectory() as name:
        for megapixels, size in SIZES.items():
            if args.short and megapixels == "200":
                continue
            for kind in KINDS:
                path = Path(name) / f"{megapixels}.{kind.lower()}"
                in_fresh_process(write_photo, path, kind, size)
                for model in MODELS:
                    megabytes, seconds = in_fresh_process(peak, model, path)
                    case = f"{model}, {kind} of {megapixels} megapixels"
                    rows.append(row(case, megabytes, None, "MB", seconds=round(seconds, 1)))
                path.unlink()
    finish("Peak memory of scoring one photo", rows, args)


if __name__ == "__main__":
    main()
