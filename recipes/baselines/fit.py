"""Make the fitted parameters of NIQE and BRISQUE that come with the package.

    python recipes/baselines/fit.py --pristine FOLDER... --biq2021 FOLDER --output src/visualquality/classics/weights

NIQE: the clean photos of --pristine (Kodak's 24 and the 200 of BSDS500's train part).
BRISQUE: the human MOS (0 to 1) of the photos in BIQ2021's train part; FOLDER holds train.csv and images/. The authors
fitted theirs on LIVE: 779 distorted copies of 29 photos. Two sets of that kind with pseudo-MOS were tried beside it
(JPEG, JPEG 2000, noise and blur alone; and all the families of `visualquality.data.distortions`). The choice was made
before any test: a regression on BIQ2021 agreed better with those two, on average, than one on either of them with
what it had not been fitted on.
"""

import argparse
from pathlib import Path

from rich.console import Console

from visualquality.classics.brisque import fit_brisque
from visualquality.classics.niqe import fit_niqe
from visualquality.data.images import find_images
from visualquality.data.manifest import Manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pristine", type=Path, nargs="+", required=True)
    parser.add_argument("--biq2021", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
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
