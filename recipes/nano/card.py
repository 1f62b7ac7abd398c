"""Measure the two embedded models on the test sets and write their card.

python recipes/nano/card.py --data FOLDER      # FOLDER as for benchmarks/rl2r_biq2021.py
"""

import argparse
import json
import sys
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from rl2r_biq2021 import measure, test_sets

from visualquality.models.load import EMBEDDED, EMBEDDED_NAMES, load
from visualquality.quiet import quiet_libraries

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "results" / "nano.json"
SYNTHETIC = 2912  # 224 photos and twelve copies of each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/nano/card"))
    args = parser.parse_args()
    quiet_libraries()
    console = Console(stderr=True)
    args.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for test, manifest in test_sets(args.data).items():
        for name in reversed(EMBEDDED_NAMES):
            journal = args.work / f"{name}_{test.split()[0].lower()}.jsonl"
            rows.append({"test": test, "model": name, **measure(name, manifest, journal, console)})
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    command = "python recipes/nano/card.py --data FOLDER"
    digests = {name: load(name, device="cpu").digest for name in EMBEDDED_NAMES}
    RESULTS.write_text(json.dumps({"command": command, "weights": digests, "rows": rows}, indent=1) + "\n")
    vlm = load("nano", device="cpu")
    template = Environment(loader=FileSystemLoader(HERE), undefined=StrictUndefined, autoescape=False)
    card = template.get_template("card.md.jinja").render(
        rows=rows,
        synthetic=SYNTHETIC,
        vocabulary=len(vlm.processor.tokenizer),
        parameters=f"{sum(p.numel() for p in vlm.model.parameters()) / 1e6:.1f}",
    )
    (EMBEDDED / "README.md").write_text(card + "\n")
    console.print(f"written: {EMBEDDED / 'README.md'} and {RESULTS}")


if __name__ == "__main__":
    main()
