"""BRISQUE: its regression against scikit-learn's, its files, and images of every kind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from sklearn.svm import SVR
from typer.testing import CliRunner

from visualquality.classics import brisque
from visualquality.classics.brisque import Brisque, fit_brisque, fit_regression
from visualquality.cli.baselines import app
from visualquality.data.distort import distort
from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.errors import UserError


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return np.random.default_rng(0).gamma(2.0, 1.0, (80, 36))


@pytest.fixture(scope="module")
def mos(features: np.ndarray) -> np.ndarray:
    return (
        3 + np.tanh(features[:, 0] - features[:, 5]) + np.random.default_rng(1).normal(0, 0.1, 80)
    )


@pytest.fixture
def one_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brisque, "COSTS", (16,))
    monkeypatch.setattr(brisque, "GAMMAS", (0.05,))


@pytest.mark.usefixtures("one_choice")
def test_the_prediction_is_that_of_scikit_learn(features: np.ndarray, mos: np.ndarray) -> None:
    fitted, _ = fit_regression(features, mos, [str(k) for k in range(80)])
    scaled = 2 * (features - features.min(0)) / np.ptp(features, axis=0) - 1
    svr = SVR(C=16 * mos.std(), gamma=0.05, epsilon=brisque.TOLERANCE * mos.std()).fit(scaled, mos)
    # The numbers are those of float32, as on disk.
    assert fitted.predict(features) == pytest.approx(svr.predict(scaled), abs=1e-4)
    exact = Brisque(
        features.min(0),
        features.max(0),
        svr.support_vectors_,
        svr.dual_coef_[0],
        np.float64(svr.intercept_[0]),
        np.float64(0.05),
    )
    assert exact.predict(features) == pytest.approx(svr.predict(scaled), abs=1e-10)


def test_copies_of_one_reference_are_never_on_both_sides(features: np.ndarray) -> None:
    """A MOS that is the reference's own can be told from a twin, and from nothing else."""
    twins = np.repeat(features[:40], 2, axis=0)
    chance = np.random.default_rng(2).normal(size=40).repeat(2)
    _, together = fit_regression(twins, chance, [str(k // 2) for k in range(80)])
    _, apart = fit_regression(twins, chance, [str(k) for k in range(80)])
    assert together < 0.5
    assert apart > 0.8


@pytest.mark.usefixtures("one_choice")
def test_a_file_predicts_the_same(features: np.ndarray, mos: np.ndarray, tmp_path: Path) -> None:
    fitted, _ = fit_regression(features, mos, [str(k) for k in range(80)])
    fitted.save(tmp_path / "svr.npz")
    loaded = Brisque.load(tmp_path / "svr.npz")
    assert (loaded.predict(features) == fitted.predict(features)).all()
    assert loaded.settings() == fitted.settings()
    for name in ("vectors", "gamma"):
        arrays = {k: v for k, v in vars(fitted).items() if k != name}
        np.savez(tmp_path / "less.npz", **arrays)
        with pytest.raises(UserError, match=r"less\.npz.*baselines fit brisque"):
            Brisque.load(tmp_path / "less.npz")
    np.savez(tmp_path / "odd.npz", **(vars(fitted) | {"coefficients": fitted.coefficients[1:]}))
    with pytest.raises(UserError, match="another number of coefficients"):
        Brisque.load(tmp_path / "odd.npz")


def test_a_feature_that_never_varied_is_left_out() -> None:
    assert brisque.scale(
        np.array([[5.0, 0.5]]), np.array([5.0, 0.0]), np.array([5.0, 1.0])
    ).tolist() == [[0.0, 0.0]]


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([(14, 14), (15, 300), (64, 33)]),
    st.sampled_from(["noise", "steps", "bit"]),
    st.integers(0, 127),
)
def test_every_image_with_a_texture_has_a_finite_score(
    size: tuple[int, int], kind: str, value: int
) -> None:
    pixels = np.full((*size, 3), value, np.uint8)
    if kind == "noise":
        pixels = np.random.default_rng(value).integers(0, 256, pixels.shape, dtype=np.uint8)
    elif kind == "steps":
        pixels[:, size[1] // 2 :] = 255 - value
    elif kind == "bit":
        pixels[0, 0] = 255 - value
    assert -1e3 < Brisque.load()(Image.fromarray(pixels)) < 1e3


@pytest.mark.parametrize("size", [(1, 1), (13, 50), (50, 13)])
def test_an_image_smaller_than_the_window_has_no_score(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with pytest.raises(UserError, match=f"{size[1]} × {size[0]} pixels: give BRISQUE 14 × 14"):
        Brisque.load()(Image.fromarray(pixels))


def test_an_image_of_one_colour_has_no_score() -> None:
    with pytest.raises(UserError, match="BRISQUE knows no texture"):
        Brisque.load()(Image.new("RGB", (100, 100), "grey"))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
@pytest.mark.parametrize("family", ["gaussian_blur", "white_noise"])
def test_a_strong_distortion_scores_lower(name: str, family: str) -> None:
    image = Image.fromarray(getattr(data, name)())
    brisque = Brisque.load()
    assert brisque(distort(image, family, 5, seed=0)) < brisque(image)


def made(folder: Path) -> Path:
    """Six textures, each plain and blurred more and more: the manifest of a set whose MOS says how much."""
    rows = ["image,mos,reference,split"]
    for seed in range(6):
        texture = Image.fromarray(
            np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        )
        for level in range(4):
            image = texture if level == 0 else distort(texture, "gaussian_blur", level, seed=0)
            image.save(folder / f"{seed}_{level}.png")
            rows.append(
                f"{seed}_{level}.png,{5 - level},{seed}_0.png,{'test' if seed == 5 else 'train'}"
            )
    path = folder / "blur.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_the_command_fits_what_then_ranks_unseen_images(tmp_path: Path) -> None:
    manifest, output = made(tmp_path), tmp_path / "svr.npz"
    arguments = ["fit", "brisque", "--data", str(manifest), "--split", "train", "-o", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "20 images" in result.output
    assert "cross-validated" in result.output
    fitted = Brisque.load(output)
    scores = [fitted(open_image(tmp_path / f"5_{level}.png")) for level in range(4)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4
    assert fitted.settings()["weights"] != Brisque.load().settings()["weights"]


def test_a_fit_that_cannot_be_is_refused(tmp_path: Path) -> None:
    rows = [Row(tmp_path / f"{k}.png", k, "a" if k < 3 else "b") for k in range(6)]
    with pytest.raises(UserError, match="a, b have scales of their own"):
        fit_brisque(Manifest(tuple(rows)))
    with pytest.raises(UserError, match="5 references or more, not of 3"):
        fit_brisque(Manifest(tuple(rows[:3])))
    result = CliRunner().invoke(app, ["fit", "brisque", "--data", str(tmp_path), "-o", "svr.txt"])
    assert result.exit_code == 2
    assert "svr.txt must end in .npz" in result.output


def test_classics_need_neither_the_scoring_nor_the_evaluation_of_models() -> None:
    """Imports run one way: score and evaluate use the classics, not the other way round."""
    program = (
        "import sys, visualquality.classics.brisque, visualquality.classics.niqe, visualquality.classics.pyiqa\n"
        "print([m for m in sys.modules if m.startswith(('visualquality.score', 'visualquality.evaluate'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
