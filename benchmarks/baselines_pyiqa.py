"""The other side of `baselines.py`: seconds and scores of pyiqa's NIQE and BRISQUE.

    python benchmarks/baselines_pyiqa.py PARAMETERS.npz THREADS IMAGE...

It runs in a Python that has pyiqa, so it imports nothing of this project. It reads lines "niqe" or "brisque" and
answers each with a line of JSON: wall-clock and processor seconds for all images, opened from their files, and their
scores (null where pyiqa failed). pyiqa would download its parameters; it gets ours in its own file formats instead.
With them its NIQE computes the same as ours. Its BRISQUE has other constants in its code: only its time is meaningful.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
import torch
from PIL import Image


def load(parameters: Path) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """pyiqa's two metrics with our parameters."""
    register = torch.library.register_fake

    def tolerant(name: object, *args: object, **more: object) -> Callable:
        # A torchvision built for CUDA cannot load its operators without one. The two metrics use none of them.
        if isinstance(name, str) and name.startswith("torchvision::"):
            return lambda function: function
        return register(name, *args, **more)

    torch.library.register_fake = tolerant
    from pyiqa.archs.brisque_arch import BRISQUE
    from pyiqa.archs.niqe_arch import NIQE

    ours = np.load(parameters)
    with tempfile.TemporaryDirectory() as folder:
        niqe, brisque = f"{folder}/niqe.mat", f"{folder}/brisque.pth"
        scipy.io.savemat(
            niqe, {"mu_prisparam": ours["mean"][None], "cov_prisparam": ours["covariance"]}
        )
        torch.save((torch.tensor(ours["coefficients"]), torch.tensor(ours["vectors"])), brisque)
        return {
            "niqe": NIQE(pretrained_model_path=niqe).eval(),
            "brisque": BRISQUE(pretrained_model_path=brisque).eval(),
        }


def score(metric: Callable[[torch.Tensor], torch.Tensor], path: str) -> float | None:
    """The metric's score of an image file; None where it fails."""
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
    try:
        return float(metric(pixels))
    except Exception:  # a failure of the metric is a result too
        return None


def main() -> None:
    parameters, threads, *images = sys.argv[1:]
    torch.set_num_threads(int(threads))
    metrics = load(Path(parameters))
    with torch.inference_mode():
        for line in sys.stdin:
            metric = metrics[line.strip()]
            score(metric, images[0])  # warm-up: tables and caches are made once
            started = time.perf_counter(), time.process_time()
            scores = [score(metric, image) for image in images]
            seconds = {
                "wall": time.perf_counter() - started[0],
                "processor": time.process_time() - started[1],
            }
            print(json.dumps(seconds | {"scores": scores}), flush=True)


if __name__ == "__main__":
    main()
