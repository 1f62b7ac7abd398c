"""The classic no-reference metrics: functions of one image, without words, chance or a large model.

niqe, brisque   this package's own, with parameters that come with it or that `visualquality baselines fit` makes
nss             the scene statistics that both compute
fitted          what they share as metrics: fitted numbers on disk
pyiqa           the metrics of the package pyiqa, an optional extra

`score/raters.py` makes a `Rater` of a classic, so that it is used like a vision-language model.
"""

from typing import Any, Protocol

from PIL import Image


class Classic(Protocol):
    """A call gives the score of an RGB image, in the metric's own unit; higher is better.

    `settings`: all that a score depends on besides the image, as the header of a results file. A call raises UserError
    for an image that the metric fails on.
    """

    @property
    def name(self) -> str: ...

    def settings(self) -> dict[str, Any]: ...

    def __call__(self, image: Image.Image) -> float: ...
