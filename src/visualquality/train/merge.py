"""A LoRA adapter and its base become one model, as servers and other software want it."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import UserError, first_line
from ..io import write_text
from ..models.folder import ADAPTER
from ..models.load import TRAINED_WITH, load, trained_as
from ..score.calibration import FILE, CalibrationFile, read_calibrations
from .checkpoints import FINAL

__all__ = ["merge"]


def merge(source: Path, output: Path) -> list[str]:
    """Write the model of `source`, a folder with a LoRA adapter or that of a run, to `output`; return what to know.

    `output` gets all weights, in the number format that the base is saved in, with processor, prompt, and the
    calibrations that fit. It is there whole or not at all. The sums are rounded once to that format; in float32 they
    are those of the adapter. Nothing is loaded from a pickle.
    Raises UserError for a folder without an adapter, where `output` exists, and as `load`.
    """
    folder = _adapter_folder(source)
    if output.exists() or output.is_symlink():
        raise UserError(f"{output} exists already: give another folder")
    vlm = load(str(folder), device="cpu", dtype="saved")
    part = output.with_name(f"{output.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a merge that was killed
        part.mkdir(parents=True)
        vlm.model.save_pretrained(part)
        vlm.processor.save_pretrained(part)
        # What says which base the adapter is for is of no use any more.
        known: dict[str, Any] = trained_as(folder) | {"base": None}
        write_text(part / TRAINED_WITH, json.dumps(known) + "\n")
        notes = _keep_calibrations(folder, part, vlm.digest)
        part.replace(output)
    # Of a full disk, safetensors raises errors of its own.
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{output} cannot be written: {first_line(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return notes


def _adapter_folder(source: Path) -> Path:
    """The folder with an adapter: `source`, or `final` in it."""
    for folder in (source, source / FINAL):
        if (folder / ADAPTER).is_file():
            return folder
    if not source.is_dir():
        raise UserError(f"no folder {source}: give a run's folder, or one with a LoRA adapter")
    raise UserError(
        f"{source} has no LoRA adapter ({ADAPTER}, here or in {FINAL}): there is nothing to merge"
    )


def _keep_calibrations(folder: Path, output: Path, weights: str) -> list[str]:
    """Copy the calibrations of these weights; a sentence where there are some of other weights."""
    if not (folder / FILE).is_file():
        return []
    found = read_calibrations(folder / FILE)
    kept = tuple(each for each in found if each.settings.get("weights") == weights)
    if kept:
        whole = CalibrationFile(calibrations=kept)
        write_text(output / FILE, whole.model_dump_json(indent=1) + "\n")
    if len(kept) == len(found):
        return []
    return [
        f"of the {len(found)} calibrations in {folder / FILE}, {len(found) - len(kept)} are for weights that were "
        "merged in another number format, and are left out: make them again with visualquality calibrate"
    ]
