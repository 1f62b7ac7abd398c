"""What the frozen tower says of images, computed once per image and used by all stages of build.py after it.

The statistics of an image take a fifth of a second. They are kept in files of a folder, so that a run that was
interrupted goes on, and in memory, where the stages that train on the images find them too.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import xxhash
from rich.console import Console
from torch import Tensor

from visualquality.io import progress_bar, tracked, write_whole
from visualquality.models.load import VisionLanguageModel
from visualquality.train.examples import FeatureCache, PromptEncoder

SHARD = 400  # images of a file


class Features:
    """The statistics of images for one tower, kept in `folder`.

    cache: shared by all training stages: as long as the tower is the same, no image runs twice.
    """

    def __init__(self, folder: Path, console: Console):
        self.folder = folder
        self.console = console
        self.cache = FeatureCache(max_bytes=12 * 2**30)
        self.kept = folder  # of the tower that was used last
        self.shards = 0  # its files that are in the cache

    def encoder(self, vlm: VisionLanguageModel) -> PromptEncoder:
        return PromptEncoder(vlm, self.cache)

    def parts(self, vlm: VisionLanguageModel, paths: Sequence[Path]) -> tuple[Tensor, ...]:
        """The statistics of these images, one tensor (n, width) for each of `Vision.widths`."""
        before = self.cache.tower
        encode = self.encoder(vlm)
        if self.cache.tower != before:
            # Another tower, or the first: what is kept of it has a folder of its own.
            name = xxhash.xxh3_64_hexdigest(self.cache.tower.encode())
            self.shards, self.kept = 0, self.folder / name
            self.kept.mkdir(parents=True, exist_ok=True)
        files = sorted(self.kept.glob("*.pt"))
        for shard in files[self.shards :]:
            for path, numbers in torch.load(shard, weights_only=True).items():
                self.cache.features.setdefault((Path(path),), numbers)
        self.shards = len(files)
        missing = [path for path in paths if (path,) not in self.cache.features]
        starts = range(0, len(missing), SHARD)
        with progress_bar(self.console) as bar:
            for start in tracked(bar, starts, "computing statistics of images", len(starts)):
                self._compute(encode, missing[start : start + SHARD])
        vision = vlm.model.model.vision
        widths = list(vision.widths)
        # Behind the statistics of the whole image come those of its cells, which are not wanted here.
        whole = [self.cache.features[(path,)][: sum(widths)] for path in paths]
        return torch.stack(whole).split(widths, 1)

    def _compute(self, encode: PromptEncoder, paths: Sequence[Path]) -> None:
        # An image's maps are small: two images on a core each take a fifth less time than one after another on both.
        cores = torch.get_num_threads()
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(lambda path: encode([((path,), "")]), paths):
                pass
        torch.set_num_threads(cores)
        found = {str(path): self.cache.features[(path,)] for path in paths}
        with write_whole(self.kept / f"{self.shards:05}.pt") as part:
            torch.save(found, part)
        self.shards += 1
