"""Images that a machine made: AGIQA-3K (generated), Liu13 (deblurred), Min19 (dehazed), SRIQA-Bench (upscaled)."""

from dataclasses import replace
from pathlib import PurePosixPath

from ...errors import UserError
from ..manifest import Row
from .authors import labelled
from .locate import Request
from .tables import read_table


def agiqa3k(request: Request) -> list[Row]:
    """`data.csv` and `images/` (or the images beside it); MOS is mos_quality, 0 to 5, std its std_quality.

    mos_align, how well an image fits its prompt, is not image quality and is not read. extra: prompt, and
    generator, which is the image name's beginning (AttnGAN, DALLE2, glide, midjourney, sd1.5, xl2.2).
    """
    table = request.file("data.csv")
    folder = request.image_folder("images", "Images", beside=table.parent, or_beside=True)
    rows = []
    for record in read_table(
        table, ("name", "prompt", "mos_quality", "std_quality"), request.source
    ):
        name = record.text("name")
        extra: dict[str, object] = {
            "prompt": record.values["prompt"],
            "generator": name.split("_")[0],
        }
        mos, std = record.number("mos_quality", 0, 5), record.number("std_quality", 0)
        rows.append(Row(folder / name, mos, request.name, std, extra=extra))
    return rows


def liu13(request: Request) -> list[Row]:
    """`Deblur_test_all.txt`, lines `reference image mos`: 40 scenes of 30 images (one of 29); MOS 1 to 5.

    Scene s has the reference s_0.png and the images s_1.png to s_30.png; which method made them is not said.
    """
    return _labelled(request, "Deblur_test_all.txt", 1, 5)


def min19(request: Request) -> list[Row]:
    """`dehaze_test_all.txt`, lines `reference image mos`: 75 hazy images, each dehazed by 8 methods; MOS 1 to 5.

    `distortion` is the method, from `<reference>_<method>.png`.
    """
    rows = _labelled(request, "dehaze_test_all.txt", 1, 5)
    return [_with_method(row, request) for row in rows]


def sriqa_bench(request: Request) -> list[Row]:
    """`SRIQA-Bench_test_all.txt`, lines `reference image mos`: 100 scenes × (10 methods + Original).

    `distortion` is the method, from `<scene>_<method>.png`. The 100 originals, which people compared with the
    upscaled images and did not always like best, are kept, as the paper's count of 1100 has them; each is
    its own reference. MOS are from 0 to 100 *in every scene* (the worst 0, the best 100): between scenes
    they say nothing, so a correlation over all 1100 is lower than one scene by scene.
    """
    rows = _labelled(request, "SRIQA-Bench_test_all.txt", 0, 100)
    return [_with_method(row, request, ending="_Original") for row in rows]


def _labelled(request: Request, file: str, low: float, high: float) -> list[Row]:
    table = request.file(file)
    folder = request.image_folder("images", "Images", beside=table.parent, or_beside=True)
    return labelled(table, folder, request, reference=True, std=False, bounds=(low, high))


def _with_method(row: Row, request: Request, ending: str = "") -> Row:
    scene = PurePosixPath(row.reference or "").stem.removesuffix(ending) + "_"
    if not row.image.stem.startswith(scene) or row.image.stem == scene:
        raise UserError(
            f"{row.image.name} is not named after its reference {row.reference}: get {request.source}"
        )
    return replace(row, distortion=row.image.stem.removeprefix(scene))
