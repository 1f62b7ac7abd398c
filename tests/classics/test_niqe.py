"""NIQE: its distance, its pristine model, and what it does with images that are too small, flat, or broken."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from visualquality.classics.niqe import Niqe, fit_niqe, patch_features
from visualquality.cli.baselines import app
from visualquality.data.distort import distort
from visualquality.data.images import open_image
from visualquality.errors import UserError


def photo(name: str) -> Image.Image:
    return Image.fromarray(getattr(data, name)()).convert("RGB")


@pytest.fixture(scope="module")
def shipped() -> Niqe:
    return Niqe.load()


def score(niqe: Niqe, image: Image.Image | np.ndarray) -> float:
    return niqe(open_image(image))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
@pytest.mark.parametrize("family", ["gaussian_blur", "white_noise"])
def test_a_stronger_distortion_scores_lower(shipped: Niqe, name: str, family: str) -> None:
    image = photo(name)
    scores = [score(shipped, distort(image, family, level, seed=0)) for level in (2, 3, 4, 5)]
    assert score(shipped, image) > scores[0] > scores[1] > scores[2] > scores[3]


def test_the_distance_is_that_of_the_paper() -> None:
    image, rng = photo("coffee"), np.random.default_rng(0)
    spread = rng.normal(size=(60, 36))
    niqe = Niqe(rng.random(36), spread.T @ spread / 60)
    features, _ = patch_features(image)
    assert len(features) == (400 // 96) * (600 // 96)
    difference = features.mean(0) - niqe.mean
    solved = np.linalg.solve((np.cov(features.T) + niqe.covariance) / 2, difference)
    assert -niqe(image) == pytest.approx(np.sqrt(difference @ solved), rel=1e-6)


def test_what_fills_no_patch_and_what_is_flat_does_not_count(shipped: Niqe) -> None:
    pixels = np.asarray(photo("coffee"))[:192, :288]
    whole = score(shipped, pixels)
    further = np.pad(pixels, ((0, 40), (0, 95), (0, 0)), mode="reflect")
    assert (
        abs(score(shipped, further) - whole) < 0.3
    )  # but for the window's three pixels at the cut
    with_sky = np.concatenate([pixels, np.full((192, 288, 3), 250, np.uint8)], axis=0)
    _, sharpness = patch_features(Image.fromarray(with_sky))
    assert (sharpness[9:] == 0).all()  # the flat patches beyond the window's edge
    assert score(shipped, with_sky) == score(shipped, with_sky[:288])


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([(97, 191), (96, 96), (192, 100)]),
    st.sampled_from(["noise", "steps", "checkers", "bit"]),
    st.integers(0, 127),
)
def test_every_image_with_a_texture_has_a_finite_score(
    shipped: Niqe, size: tuple[int, int], kind: str, value: int
) -> None:
    rng = np.random.default_rng(value)
    pixels = np.full((*size, 3), value, np.uint8)
    if kind == "noise":
        pixels = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
    elif kind == "steps":
        pixels[:, size[1] // 2 :] = 255 - value
    elif kind == "checkers":
        pixels[(np.indices(size).sum(0) % 2).astype(bool)] = 255 - value
    elif kind == "bit":
        pixels[0, 0] = 255 - value
    assert -1e6 < score(shipped, pixels) <= 0


@pytest.mark.parametrize("size", [(1, 1), (26, 28), (95, 400), (400, 95)])
def test_an_image_smaller_than_a_patch_has_no_score(shipped: Niqe, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with pytest.raises(UserError, match=f"{size[1]} × {size[0]} pixels: give NIQE 96 × 96"):
        score(shipped, pixels)


def test_an_image_of_one_colour_has_no_score(shipped: Niqe) -> None:
    for value in (0, 128, 255):
        with pytest.raises(UserError, match="NIQE knows no texture"):
            score(shipped, np.full((200, 200, 3), value, np.uint8))


def textures(seed: int) -> Image.Image:
    """7 × 7 patches of noise, of which the upper ones are sharp and the lower ones dull."""
    pixels = np.random.default_rng(seed).normal(128, 30, (672, 672, 3))
    pixels[288:] = 128 + (pixels[288:] - 128) / 3
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_the_model_is_the_gaussian_of_the_sharp_patches() -> None:
    images = [textures(0), textures(1)]
    fitted = fit_niqe(images, workers=1)
    kept = np.concatenate([patch_features(image)[0][:21] for image in images])
    assert fitted.mean == pytest.approx(kept.mean(0))
    assert fitted.covariance == pytest.approx(np.cov(kept.T))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([np.zeros((95, 200), np.uint8)], "200 × 95"),
        ([np.zeros((96, 96), np.uint8)], "0 sharp patches"),
        ([], "0 sharp"),
    ],
)
def test_a_model_cannot_be_fitted_on_too_little(images: list, words: str) -> None:
    with pytest.raises(UserError, match=words):
        fit_niqe(images)


def test_the_command_fits_on_folders_and_manifests(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed in (0, 1):
        textures(seed).save(tmp_path / "photos" / f"{seed}.png")
    (tmp_path / "set.csv").write_text("image,mos\nphotos/0.png,1\nphotos/1.png,2\n")
    made = []
    for source in ("photos", "set.csv"):
        output = tmp_path / f"{source}.npz"
        result = CliRunner().invoke(
            app, ["fit", "niqe", "--data", str(tmp_path / source), "-o", str(output)]
        )
        assert result.exit_code == 0, result.output
        made.append(Niqe.load(output))
    assert made[0].settings() == made[1].settings()
    assert made[0].settings()["weights"] != Niqe.load().settings()["weights"]
    expected = fit_niqe([textures(0), textures(1)])
    assert (made[0].covariance == expected.covariance).all()


def _missing(path: Path) -> None: ...


def _text(path: Path) -> None:
    path.write_text("mean,covariance", encoding="utf-8")


def _other(path: Path) -> None:
    np.savez(path, mean=np.zeros(36))


def _shape(path: Path) -> None:
    np.savez(path, mean=np.zeros(36), covariance=np.zeros((35, 36)))


def _not_finite(path: Path) -> None:
    np.savez(path, mean=np.full(36, np.nan), covariance=np.eye(36))


@pytest.mark.parametrize("write", [_missing, _text, _other, _shape, _not_finite])
def test_a_file_that_holds_no_model_is_refused_in_one_sentence(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "model.npz"
    write(path)
    with pytest.raises(UserError, match=r"model\.npz.*baselines fit niqe"):
        Niqe.load(path)
