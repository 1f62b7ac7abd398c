"""Fit the parameters of NIQE and BRISQUE that come with the package.

    python recipes/baselines/fit.py --pristine FOLDER... --biq2021 FOLDER --output src/visualquality/classics/weights

NIQE is fitted on the clean photos of --pristine: Kodak's 24 and the 200 of BSDS500's train part.
BRISQUE is fitted on the human MOS (0 to 1) of BIQ2021's train part; FOLDER holds train.csv and images/. Its authors
used LIVE, 779 distorted copies of 29 photos. Two sets of that kind, with pseudo-MOS, were tried as well: one with JPEG,
JPEG 2000, noise and blur, and one with all families of `visualquality.data.distortions`. BIQ2021 was chosen before any
test: the regression on it agreed better with the other two sets, on average, than a regression on one of them agreed
with the two sets that it had not been fitted on.
"""

import argparse
from pathlib import Path

from rich.console import Console

from visualquality.classics.brisque import fit_brisque
from visualquality.classics.niqe import fit_niqe
from visualquality.data.find import find_images
from visualquality.data.manifest import Manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pristine", type=Path, nargs="+", required=True, help="folders of clean photos"
    )
    parser.add_argument(
        "--biq2021", type=Path, required=True, help="folder of train.csv and images/"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the two .npz files")
    options = parser.parse_args()
    console = Console()

    photos = find_images(options.pristine)
    fit_niqe(photos).save(options.output / "niqe.npz")
    console.print(f"NIQE: {len(photos)} photos")

    manifest = Manifest.read(
        options.biq2021 / "train.csv",
        name="BIQ2021",
        columns={"image": "Image Name", "mos": "MOS"},
        images=options.biq2021 / "images",
    )
    brisque, srcc = fit_brisque(manifest)
    brisque.save(options.output / "brisque.npz")
    console.print(f"BRISQUE: {len(brisque.vectors)} support vectors of {len(manifest)} photos")
    console.print(f"SRCC {srcc:.3f}, cross-validated")


if __name__ == "__main__":
    main()
