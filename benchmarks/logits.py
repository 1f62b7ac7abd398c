"""Peak memory and seconds of the log-probabilities of an update, in chunks against all logits at once.

    python benchmarks/logits.py --json benchmarks/results/logits.json

Ours is what training does (`train/chosen.py`); theirs makes all logits and leaves the rest to autograd, as this package
did before. Both start from the same hidden states, go through a head with trained weights, and come back with the same
gradients, which is checked. The vocabulary is smaller than that of a 7B model (16,384 against 152,064), since all
logits at once would not fit here. Memory is the resident memory at its highest minus that before, in a fresh process;
the results, which are log-probabilities and gradients, are a part of it. "extra" is what PyTorch allocated at its
highest, without these results; "share of bound" is that of ours over 1.3 x 1024 tokens x vocabulary x 4 bytes.
"""

import argparse

import torch
from common import (
    Row,
    allocated_megabytes,
    finish,
    in_fresh_process,
    medians,
    parser,
    peak_megabytes,
    row,
)
from torch import Tensor, nn

from visualquality.train.chosen import head_gives_log_probabilities, log_probabilities_of

HIDDEN, VOCABULARY = 256, 16_384
BOUND = 1.3 * 1024 * VOCABULARY * 4 / 1e6  # MB


class Head:
    """A head, hidden states and tokens; `run` is forward and backward."""

    def __init__(self, tokens: int):
        torch.manual_seed(0)
        self.head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        self.hidden = torch.randn(1, tokens, HIDDEN, requires_grad=True)
        self.tokens = torch.randint(0, VOCABULARY, (1, tokens))
        self.weights = torch.randn(1, tokens)  # in place of advantages

    def run(self, side: str) -> list[Tensor]:
        """Log-probabilities and their gradients."""
        if side == "chunks":
            with head_gives_log_probabilities(self.head, self.tokens, 1.0):
                log_p = self.head(self.hidden)
        else:
            logits = self.head(self.hidden)
            log_p = log_probabilities_of(logits[0], self.tokens[0], 1.0)[None]
        loss = (log_p * self.weights).sum()
        return [log_p.detach(), *torch.autograd.grad(loss, [self.hidden, self.head.weight])]


def resident_peak(side: str, tokens: int, threads: int) -> float:
    """MB that `run` adds to this process."""
    torch.set_num_threads(threads)
    head = Head(tokens)
    Head(8).run(side)  # loads what is loaded at the first call
    return peak_megabytes(lambda: head.run(side))


def extra_megabytes(head: Head, side: str) -> float:
    """MB that `run` allocates at its highest, its results aside."""
    results: list[Tensor] = []
    peak = allocated_megabytes(lambda: results.extend(head.run(side)))
    return peak - sum(x.numel() * x.element_size() for x in results) / 1e6


def measure(tokens: int, repeats: int) -> list[Row]:
    head = Head(tokens)
    for ours, theirs in zip(head.run("chunks"), head.run("whole"), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=0)
    threads = torch.get_num_threads()
    peaks = [in_fresh_process(resident_peak, side, tokens, threads) for side in ("chunks", "whole")]
    seconds = medians(lambda: head.run("chunks"), lambda: head.run("whole"), repeats)
    case = f"{tokens} tokens, vocabulary {VOCABULARY}"
    extra = [extra_megabytes(head, side) for side in ("chunks", "whole")]
    return [
        row(f"{case}: peak memory", peaks[0], peaks[1], "MB"),
        row(f"{case}: extra", extra[0], extra[1], "MB", **{"share of bound": extra[0] / BOUND}),
        row(f"{case}: forward + backward", *seconds, "s"),
    ]


def main() -> None:
    args: argparse.Namespace = parser(__doc__).parse_args()
    rows = []
    for tokens in (1024, 2048) if args.short else (1024, 4096, 8192):
        rows += measure(tokens, 1 if args.short else 3)
    finish("Log-probabilities: in chunks against all logits at once", rows, args)


if __name__ == "__main__":
    main()
