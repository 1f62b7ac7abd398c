"""Synthetic ranking sets: the distortions, their pseudo-MOS, and the sets that are built from them."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from visualquality.data import cielab
from visualquality.data import distort as module
from visualquality.data.distort import FAMILIES, LEVELS, build_set, distort, pseudo_mos
from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest
from visualquality.errors import UserError


def textured(width: int = 288, height: int = 192, seed: int = 0) -> Image.Image:
    """A colourful scene with smooth parts, texture and edges."""
    rng = np.random.default_rng(seed)
    coarse = ndimage.gaussian_filter(
        rng.standard_normal((height, width, 3)), (12, 12, 0), mode="wrap"
    )
    fine = ndimage.gaussian_filter(rng.standard_normal((height, width, 3)), (1, 1, 0), mode="wrap")
    pixels = 120 + 45 * coarse / coarse.std() + 12 * fine / fine.std()
    pixels[height // 4 : height // 2, width // 4 : width // 2] += (60, -50, 20)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean())


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return textured()


def test_families_are_kadid_in_its_order_and_resize():
    assert len(FAMILIES) == 26
    assert [list(FAMILIES).index(name) + 1 for name in ("jpeg2000", "white_noise", "jitter", "contrast_change")] == [
        9, 11, 19, 25,
    ]  # fmt: skip
    assert list(FAMILIES)[-1] == "resize"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_level_is_stronger_than_the_last(scene, family, seed):
    copies = [distort(scene, family, level, seed) for level in LEVELS]
    assert all(copy.size == scene.size and copy.mode == "RGB" for copy in copies)
    change = [difference(scene, copy) for copy in copies]
    assert change[0] > 0
    assert all(np.diff(change) > 0)
    worst = np.abs(np.asarray(copies[-1], dtype=int) - np.asarray(scene, dtype=int)).max()
    assert change[-1] > 1.5 * change[0]
    assert worst >= 20
    assert distort(scene, family, 3, seed).tobytes() == copies[2].tobytes()


RANDOM = [
    *(
        "motion_blur",
        "color_shift",
        "white_noise",
        "color_noise",
        "impulse_noise",
        "multiplicative_noise",
    ),
    *("denoise", "jitter", "non_eccentricity_patch", "color_block"),
]


@pytest.mark.parametrize("family", RANDOM)
def test_another_seed_is_another_draw(scene, family):
    assert distort(scene, family, 5, 0).tobytes() != distort(scene, family, 5, 1).tobytes()


@pytest.mark.parametrize("family", ["mean_shift", "contrast_change"])
def test_both_directions_occur_and_a_seed_keeps_one(scene, family):
    def measure(image: Image.Image) -> float:
        pixels = np.asarray(image, dtype=float)
        return pixels.mean() if family == "mean_shift" else pixels.std()

    signs = [
        [np.sign(measure(distort(scene, family, n, s)) - measure(scene)) for n in LEVELS]
        for s in range(8)
    ]
    assert {tuple(sign) for sign in signs} == {(1,) * 5, (-1,) * 5}


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (3, 40)])
def test_tiny_images_survive_every_family(size):
    image = textured().resize(size)
    before = image.tobytes()
    for family in FAMILIES:
        for level in LEVELS:
            copy = distort(image, family, level, 3)
            assert (copy.size, copy.mode) == (size, "RGB"), (family, level)
    assert image.tobytes() == before


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_other_modes_are_those_of_open_image(scene, mode):
    image = (
        scene.convert(mode)
        if mode != "I;16"
        else Image.fromarray(np.array(scene.convert("L"), np.uint16) * 257)
    )
    assert image.mode == mode
    for family in ("jpeg", "jitter"):
        assert (
            distort(image, family, 2, 0).tobytes()
            == distort(open_image(image), family, 2, 0).tobytes()
        )


@pytest.mark.parametrize(
    ("family", "level", "named"),
    [("blurr", 1, "gaussian_blur"), ("jpeg", 6, "1, 2, 3, 4, 5"), ("jpeg", 0, "1, 2, 3")],
)
def test_unknown_family_or_level_lists_the_known(scene, family, level, named):
    with pytest.raises(UserError, match=named):
        distort(scene, family, level, 0)


def test_cielab_is_the_standard_and_its_round_trip_exact():
    codes = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(cielab.to_rgb(cielab.from_rgb(codes)), codes)
    known = np.array([[[255, 255, 255], [255, 0, 0], [0, 0, 255]]], dtype=np.uint8)
    lab = [
        [100, 0, 0],
        [53.24, 80.09, 67.20],
        [32.30, 79.19, -107.86],
    ]  # of sRGB's primaries under D65
    assert cielab.from_rgb(known)[0] == pytest.approx(np.array(lab), abs=0.02)


@pytest.mark.parametrize("size", [(144, 96), (30, 260), (4, 4)])
def test_pseudo_mos_of_the_reference_is_5(size):
    image = textured().resize(size)
    assert pseudo_mos(image, image) == pytest.approx(5.0, abs=0.05)


@pytest.mark.parametrize("family", ["gaussian_blur", "jpeg", "white_noise"])
@pytest.mark.parametrize("size", [(280, 260), (60, 40)])
def test_pseudo_mos_falls_with_the_level(family, size):
    image = textured(*size)
    mos = [5.0, *(pseudo_mos(image, distort(image, family, level, 0)) for level in LEVELS)]
    assert all(np.diff(mos) < 0)
    assert 1.0 <= mos[-1] < 2.0


@pytest.mark.parametrize("size", [(6, 6), (1, 300)])
def test_pseudo_mos_sees_flaws_of_images_too_small_for_the_metric(size):
    assert pseudo_mos(Image.new("RGB", size, "gray"), Image.new("RGB", size, "darkgreen")) < 3


@pytest.mark.parametrize(("score", "mos"), [(100, 5), (70, 4), (30, 2), (-1e6, 1)])
def test_pseudo_mos_goes_through_its_anchors(monkeypatch, scene, score, mos):
    monkeypatch.setattr("ssimulacra2.compute_ssimulacra2", lambda reference, distorted: score)
    assert pseudo_mos(scene, scene) == pytest.approx(mos, abs=0.005)


def test_pseudo_mos_errors_name_the_fix(monkeypatch, scene):
    with pytest.raises(UserError, match="288 × 192 and 9 × 9"):
        pseudo_mos(scene, scene.resize((9, 9)))
    monkeypatch.setitem(sys.modules, "ssimulacra2", None)
    with pytest.raises(UserError, match=r"pip install visualquality\[synthetic\]"):
        pseudo_mos(scene, scene)


@pytest.fixture
def references(tmp_path) -> list[Path]:
    folder = tmp_path / "clean"
    folder.mkdir()
    for seed, name in enumerate(["a.png", "b.bmp"]):
        textured(48, 40, seed).save(folder / name)
    return [folder / "a.png", folder / "b.bmp"]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        p.name + p.parent.name: (p.stat().st_mtime_ns, p.read_bytes())
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_build_set_is_complete_balanced_and_true(references, tmp_path):
    seen: list[tuple[int, int]] = []
    families = ["jpeg", "pixelate", "brighten"]
    output = tmp_path / "set"
    path = build_set(
        references,
        output,
        per_reference=7,
        seed=1,
        families=families,
        progress=lambda *c: seen.append(c),
    )
    assert path == output / "manifest.csv"
    assert path.read_text().splitlines()[0] == "image,mos,reference,distortion,level"
    assert seen == [(8, 16), (16, 16)]
    rows = Manifest.read(path).rows
    assert len(rows) == 16
    assert sorted(r.image.resolve() for r in rows) == sorted(
        p.resolve() for p in output.rglob("*.png")
    )
    assert (
        len(list(output.rglob("*"))) == 16 + 4
    )  # manifest, images, images/a, images/b: no temporary file is left
    for stem, source in zip("ab", references, strict=True):
        own = [r for r in rows if r.reference == f"images/{stem}/reference.png"]
        original, copies = own[0], own[1:]
        assert (original.mos, original.distortion) == (5.0, None)
        assert open_image(original.image).tobytes() == open_image(source).tobytes()
        counts = [sum(r.distortion == family for r in copies) for family in families]
        assert sorted(counts) == [2, 2, 3]
        assert len({(r.distortion, r.extra["level"]) for r in copies}) == 7
        for row in copies:
            assert 1 <= row.mos < 5
            assert row.mos == pytest.approx(
                pseudo_mos(open_image(source), open_image(row.image)), abs=1e-5
            )


def test_build_set_resumes_and_remakes_only_what_is_missing(references, tmp_path, monkeypatch):
    output, plan = tmp_path / "set", {"per_reference": 3, "seed": 5}
    whole = build_set(references, output, **plan).read_text()
    before = snapshot(output / "images")
    lost = sorted((output / "images" / "a").glob("*_*.png"))[1]
    lost.unlink()
    (output / "manifest.csv").unlink()
    made = []
    true_distort = module.distort
    monkeypatch.setattr(module, "distort", lambda *a: made.append(a[1:3]) or true_distort(*a))
    assert build_set(references, output, **plan).read_text() == whole
    assert [f"{family}_{level}.png" for family, level in made] == [lost.name]
    after = snapshot(output / "images")
    assert {n: b for n, (_, b) in after.items()} == {n: b for n, (_, b) in before.items()}
    assert sum(after[name][0] != before[name][0] for name in before) == 1


def test_build_set_remakes_images_of_another_origin(references, tmp_path):
    output = tmp_path / "set"
    plan = {
        "per_reference": 5,
        "families": ["white_noise"],
    }  # every level: the same file names for any seed
    build_set(references, output, seed=0, **plan)
    textured(48, 40, seed=9).save(references[0])
    resumed = build_set(references, output, seed=1, **plan).read_text()
    assert resumed == build_set(references, tmp_path / "fresh", seed=1, **plan).read_text()


def test_what_a_reference_gets_does_not_depend_on_the_others(references, tmp_path):
    plan = {"per_reference": 2, "seed": 0, "families": ["jpeg", "resize"]}
    both = build_set(references, tmp_path / "both", **plan).read_text().splitlines()
    alone = build_set(references[1:], tmp_path / "alone", **plan).read_text().splitlines()
    assert alone == [both[0], *both[4:]]


def test_another_process_makes_the_same_pixels(references, tmp_path):
    plan = {"references": references[:1], "per_reference": len(FAMILIES), "seed": 0}
    sets = [
        build_set(output=tmp_path / str(workers), workers=workers, **plan) for workers in (1, 2)
    ]
    here, there = (
        {p.name: p.read_bytes() for p in path.parent.rglob("*.*") if p.is_file()} for path in sets
    )
    assert here == there
    assert len(here) == len(FAMILIES) + 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"per_reference": 0}, "from 1 to"),
        ({"per_reference": 6}, "1 families at 5 levels give at most 5"),
        ({"families": ["jpg"]}, "'jpg'.*jpeg2000, jpeg"),
        ({"references": []}, "no reference"),
        ({"references": [Path("x/A.png"), Path("y/a.jpg")]}, "same stem"),
        ({"references": [Path("nowhere.png")]}, "nowhere.png"),
        ({"output": Path(__file__)}, "is a file"),
    ],
)
def test_build_set_refuses(references, tmp_path, change, named):
    plan = {
        "references": references,
        "output": tmp_path / "set",
        "per_reference": 1,
        "families": ["jpeg"],
        "seed": 0,
    }
    plan |= change
    with pytest.raises(UserError, match=named):
        build_set(plan.pop("references"), plan.pop("output"), **plan)
    assert not list(tmp_path.rglob("manifest.csv"))
