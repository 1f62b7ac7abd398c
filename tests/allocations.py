"""How much memory PyTorch's operators allocate."""

import itertools
from collections.abc import Callable

import torch


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that `run` had allocated at once, of what it allocated itself."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return max(itertools.accumulate(change for _, change in sorted(changes)))
