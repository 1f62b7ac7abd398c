"""Image quality scores with reasons: RL2R (VisualQuality-R1) training, scoring and evaluation."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import UserError
    from .metrics import VisualQualityScore, create_metric
    from .score.rating import Rating, compare
    from .score.scorer import Scorer
    from .score.source import Referenced

__all__ = [
    "Rating",
    "Referenced",
    "Scorer",
    "UserError",
    "VisualQualityScore",
    "compare",
    "create_metric",
]

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # nothing about its use leaves the machine

_HOMES = {
    "Rating": "score.rating",
    "Referenced": "score.source",
    "Scorer": "score.scorer",
    "UserError": "errors",
    "VisualQualityScore": "metrics",
    "compare": "score.rating",
    "create_metric": "metrics",
}


def __getattr__(name: str) -> Any:
    """The public names on first use: PyTorch and transformers take seconds to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
