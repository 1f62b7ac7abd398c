"""The torchmetrics classes against scipy, in one and in two processes; the pyiqa-style call on the embedded model."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from visualquality import UserError
from visualquality.metrics import (
    KRCC,
    PLCC,
    SRCC,
    InferenceMetric,
    VisualQualityScore,
    create_metric,
)
from visualquality.score.rating import Rating

SCIPY = {SRCC: stats.spearmanr, PLCC: stats.pearsonr, KRCC: stats.kendalltau}


class Brightness:
    """A `Rater` whose score is 1 + 4 × mean brightness; an image without red has none."""

    def settings(self):
        return {"model": "brightness"}

    def rate(self, images):
        for image in images:
            pixels = np.asarray(image, dtype=np.float64) / (
                255 if np.asarray(image).dtype == np.uint8 else 1
            )
            made_by = {"model": "brightness", "mode": "direct", "seed": 0}
            if not pixels[..., 0].any():
                yield Rating.failed("array", "no red", **made_by)
            else:
                score = 1 + 4 * pixels.mean()
                yield Rating("array", score, None, (score,), None, None, **made_by, seconds=0.0)


def scores_and_mos(n: int, ties: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    mos = torch.rand(n, generator=generator)
    scores = mos + 0.5 * torch.rand(n, generator=generator)
    return ((5 * scores).round(), (3 * mos).round()) if ties else (scores, mos)


def images_with_gaps() -> torch.Tensor:
    """(7, 3, 4, 5) in [0, 1], the second and the sixth without red."""
    images = torch.rand(7, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    images[[1, 5], 0] = 0
    return images


def expected_mean(images: torch.Tensor) -> float:
    return (1 + 4 * images[[0, 2, 3, 4, 6]].mean(dim=(1, 2, 3)).double()).mean().item()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("kind", SCIPY)
def test_correlations_are_those_of_scipy_in_any_batches(kind, ties):
    scores, mos = scores_and_mos(57, ties)
    expected = SCIPY[kind](scores.double(), mos.double()).statistic
    metric = kind()
    for size in (57, 20, 1):
        metric.reset()
        for a, b in zip(scores.split(size), mos.split(size), strict=True):
            metric.update(a, b)
        assert metric.compute().item() == pytest.approx(expected, abs=1e-9)
    assert metric.higher_is_better


@pytest.mark.parametrize("kind", SCIPY)
def test_a_correlation_that_does_not_exist_is_nan_and_says_why(kind):
    metric = kind()
    metric.update(torch.ones(5), torch.arange(5))
    with pytest.warns(UserWarning, match="the score of all 5 images is the same"):
        assert metric.compute().isnan()
    with pytest.raises(UserError, match=r"\(5,\) and \(4,\)"):
        metric.update(torch.ones(5), torch.ones(4))


@pytest.mark.filterwarnings("ignore:.*have no score")
def test_the_mean_is_over_the_images_that_have_a_score():
    images = images_with_gaps()
    metric = VisualQualityScore(Brightness())
    metric.update(images[:3])
    metric.update(images[3])
    metric.update([*images[4:6], images[6:]])
    assert metric.compute().item() == pytest.approx(expected_mean(images))
    assert (metric.count.item(), metric.unreadable.item()) == (5, 2)
    assert metric(images[:1]).item() == pytest.approx(
        1 + 4 * images[0].mean().item()
    )  # forward: of the batch alone
    assert metric.compute().item() != pytest.approx(expected_mean(images))
    metric.reset()
    metric.update((images * 255).round().byte())
    assert metric.compute().item() == pytest.approx(expected_mean(images), abs=0.01)


def test_no_score_at_all_is_nan_with_a_warning():
    metric = VisualQualityScore(Brightness())
    with pytest.warns(
        UserWarning, match=r"1 of 1 images have no score and are left out \(array: no red\)"
    ):
        metric.update(torch.zeros(3, 8, 8))
    with pytest.warns(UserWarning, match="no image had a score"):
        assert metric.compute().isnan()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.full((1, 3, 4, 4), 1.01), r"outside \[0, 1\]"),
        (torch.full((1, 3, 4, 4), float("nan")), r"outside \[0, 1\]"),
        (torch.rand(4, 4, 3), r"shape \(4, 4, 3\)"),
        (torch.rand(3, 4), r"shape \(3, 4\)"),
        (torch.ones(3, 4, 4, dtype=torch.long), "int64"),
    ],
)
def test_tensors_that_are_no_images_are_refused(images, words):
    with pytest.raises(UserError, match=words):
        VisualQualityScore(Brightness()).update(images)


def test_a_float_a_rounding_beyond_white_is_white():
    metric = VisualQualityScore(Brightness())
    metric.update(torch.full((3, 4, 4), 1 + 2e-7))
    assert metric.compute().item() == 5


def test_options_belong_to_a_name():
    with pytest.raises(UserError, match="samples: options of a rater that exists already"):
        VisualQualityScore(Brightness(), samples=2)
    with pytest.raises(ValueError, match="sampels"):
        VisualQualityScore(Brightness(), sampels=2)


def test_the_same_picture_has_the_same_score_in_every_form(tmp_path, pictures):
    metric = create_metric("visualquality-nano", device="cpu", mode="expect")
    pictures = [image.resize((64, 64)) for image in pictures[:2]]
    for number, image in enumerate(pictures):
        image.save(tmp_path / f"{number}.png")
    stack = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in pictures])
    scores = metric(stack.float() / 255)
    assert scores.shape == (2,)
    assert scores[0] != scores[1]
    assert ((scores >= 1) & (scores <= 5)).all()
    for same in (
        stack,
        pictures,
        [str(tmp_path / "0.png"), tmp_path / "1.png"],
        stack.double() / 255,
        [np.asarray(image) for image in pictures],
        np.stack([np.asarray(image) for image in pictures]),
        np.array([str(tmp_path / "0.png"), str(tmp_path / "1.png")]),
    ):
        assert torch.equal(metric(same), scores)
    for one in (stack[0], pictures[0], str(tmp_path / "0.png"), stack[:1]):
        assert torch.equal(metric(one), scores[:1])
    assert (metric.metric_name, metric.metric_mode, metric.lower_better) == (
        "visualquality-nano",
        "NR",
        False,
    )
    low, high = (float(end) for end in metric.score_range.split(","))
    assert (low, high) == (1, 5)
    with pytest.raises(
        UserError, match=r"image 2 of 2 \(.*absent.png\) has no score: .*does not exist"
    ):
        metric([tmp_path / "0.png", tmp_path / "absent.png"])
    same_rater = VisualQualityScore(metric.rater)
    same_rater.update(stack)
    assert same_rater.compute().item() == pytest.approx(scores.double().mean().item())


def test_an_unreadable_answer_is_no_number(model_folder, pictures):
    """An untrained model babbles."""
    metric = create_metric(
        f"visualquality:{model_folder('nano')}", device="cpu", samples=1, max_new_tokens=4
    )
    with pytest.raises(UserError, match=r"image 1 of 1 .* no readable answer"):
        metric(pictures[0])


@pytest.mark.parametrize("name", ["visualquality", "niqe", "visualquality:"])
def test_an_unknown_metric_is_told_what_there_is(name):
    with pytest.raises(
        UserError, match="visualquality-nano, visualquality-r1, or visualquality:MODEL"
    ):
        create_metric(name)


def test_two_processes_measure_as_one(tmp_path):
    """Process 0 has five images and process 1 two; of the correlations, process 1 has fewer, then nothing at all."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, f"file://{tmp_path}/store", rank],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "".join(errors)[-3000:]


def in_each_process(store: str, rank: int) -> None:
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    images = images_with_gaps()
    mean = VisualQualityScore(Brightness())
    mean.update(images[:5] if rank == 0 else images[5:])
    assert abs(mean.compute().item() - expected_mean(images)) < 1e-6
    for kind, by_scipy in SCIPY.items():
        for empty in (False, True):
            scores, mos = scores_and_mos(23, ties=True)
            metric = kind()
            for a, b in zip(scores.split(5), mos.split(5), strict=True) if rank == 0 else ():
                metric.update(a, b)
            if not empty:
                metric.update(*scores_and_mos(3 + 4 * rank, ties=False))
                pieces = [
                    (scores, mos),
                    scores_and_mos(3, ties=False),
                    scores_and_mos(7, ties=False),
                ]
                scores, mos = (torch.cat(both) for both in zip(*pieces, strict=True))
            assert (
                abs(metric.compute().item() - by_scipy(scores.double(), mos.double()).statistic)
                < 1e-9
            )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    in_each_process(sys.argv[1], int(sys.argv[2]))


@pytest.mark.parametrize(
    "images",
    [
        b"\x89PNG",
        bytearray(3),
        3,
        None,
        object(),
        np.zeros(5),
        np.zeros(()),
        {"a.png": 1},
        {"a.png"},
    ],
)
def test_what_holds_no_images_is_one_sentence(images):
    metric = InferenceMetric("brightness", Brightness())
    for given in (images, [images]):
        with pytest.raises(UserError, match=r"images are given as .*: give a path"):
            metric(given)


@pytest.mark.parametrize("name", [b"visualquality-nano", None, 3, np.zeros((4, 4, 3))])
def test_a_metric_has_a_name(name):
    with pytest.raises(UserError, match="the name of a metric is a text"):
        create_metric(name)
