"""Finds what is wrong with rated images before training: unreadable, duplicated, or leaked between splits."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import imagehash
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageFile
from rich.console import Console
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ..errors import UserError
from ..io import map_ahead, progress_bar, tracked
from .images import MAX_IMAGE_PIXELS, header, image_digest, open_image
from .manifest import SPLITS, Manifest
from .row import std_notes

# Images look alike within this many of the 256 bits of their perceptual hashes. Measured on 3700 images (BIQ2021,
# AGIQA-3K, Kodak, BSDS500): their 6.8 million pairs are 127 ± 8 bits apart; 36 are within 40, each the same picture or
# another exposure of one scene, as is every pair up to 74. Of 600 images' copies, within 40 of their original were
# all JPEGs of quality 75, all resized to 0.25 or more, and over 99 % of those of JPEG quality 20, cropped by 1 %,
# blurred with σ = 2 px or brightened by a fifth.
NEAR_BITS = 40
_HASH_SIDE = 16
# A coefficient above the median is a bit, so that a photo has 128. Fewer: most coefficients are zero, as in blank
# images and plain ramps, which all hash alike; those are compared by their colours.
_PLAIN_BITS = 112
_PLAIN_SIDE = 8  # pixels of a thumbnail's side
_PLAIN_LEVELS = 2  # by which 8-bit values of two thumbnails may differ
_BLOCK = 256  # rows of the matrix of distances that are in memory at a time

Kind = Literal["exact", "near", "reference"]
Range = tuple[float, ...]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class DatasetSummary:
    """One data set of one manifest. Sizes are those of upright images that could be opened; None if there are none."""

    manifest: str
    dataset: str
    images: int
    splits: dict[str, int]  # train, val, test, and "" for rows without one
    references: int
    mos: Range  # minimum, quartiles, maximum
    width: Range | None  # minimum, median, maximum, in pixels
    height: Range | None
    megapixels: Range | None
    kinds: dict[str, int]  # as stored, such as "JPEG RGB"; the commonest first


@dataclass(frozen=True, order=True)
class Member:
    """A row that a finding is about."""

    manifest: str
    dataset: str
    split: str  # "" for none
    image: str
    mos: float


@dataclass(frozen=True, order=True)
class Broken:
    """An image that cannot be opened, or that a model cannot take, and the sentence that says why."""

    image: str
    problem: str


@dataclass(frozen=True)
class Overlap:
    """Images that share content.

    exact: equal pixels. near: each looks like another of them; `bits` is the largest such distance, of 256
    (0 for blank images and plain ramps). reference: distorted versions of one reference in several splits or manifests.
    """

    kind: Kind
    members: tuple[Member, ...]
    bits: int = 0

    @property
    def leak(self) -> bool:
        """The content is in two splits or in two manifests."""
        splits = {member.split for member in self.members} - {""}
        return len(splits) > 1 or len({member.manifest for member in self.members}) > 1


@dataclass(frozen=True)
class Check:
    """All that `check` found; the same for every order of the rows."""

    datasets: tuple[DatasetSummary, ...]
    broken: tuple[Broken, ...]
    overlaps: tuple[Overlap, ...]  # leaks first
    notes: tuple[str, ...]  # about numbers that are doubtful (`row.std_notes`)

    @property
    def clean(self) -> bool:
        return not self.broken and not self.overlaps

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the fields, `clean`, and each overlap's `leak`."""
        overlaps = [{"leak": overlap.leak, **asdict(overlap)} for overlap in self.overlaps]
        return {"clean": self.clean} | asdict(self) | {"overlaps": overlaps}


class _Content(NamedTuple):
    """What is kept of an image whose pixels were read."""

    width: int
    height: int
    kind: str
    digest: str
    bits: NDArray[np.bool_]  # (256,): the perceptual hash
    thumbnail: NDArray[np.uint8] | None  # only of an image that is too plain for its hash


def check(
    manifests: Mapping[str, Manifest],
    *,
    refusal: Callable[[int, int], str | None] = lambda width, height: None,
    console: Console | None = None,
) -> Check:
    """Open every image of the manifests (name -> manifest), in threads, and compare all of them.

    Read a manifest with `check_images=False`, so that its broken images become findings. Pixels are not kept.

    Near duplicates are found by perceptual hash (`imagehash.phash`, 16 × 16 low frequencies of a 64 × 64 DCT):
    recompressed, resized or slightly cropped copies, and shots of one scene from one place; not turned or mirrored
    ones. Rows of one data set with the same `reference` are near duplicates by nature: only equal pixels
    among them, and a reference in several splits or manifests, are findings.

    A file that several rows name is opened once. refusal: why a model cannot take a width and height, or None; such
    images are among the broken ones. console: where a progress bar is shown, if it is a terminal.
    """
    rows = [(name, row) for name, manifest in manifests.items() for row in manifest.rows]
    files = list(dict.fromkeys(row.image for _, row in rows))
    with progress_bar(console or Console(quiet=True)) as bar:
        results = tracked(bar, map_ahead(_open, files), "checking", len(files))
        opened = dict(zip(files, results, strict=True))
    broken, listed = [], []
    for path, result in opened.items():
        if isinstance(result, UserError):
            broken.append(Broken(str(path), str(result)))
        elif reason := refusal(result.width, result.height):
            broken.append(Broken(str(path), f"{path}: {reason}"))
    for name, row in rows:
        member = Member(name, row.dataset, row.split or "", str(row.image), row.mos)
        # A reference belongs to its data set: two sets may use the same names.
        reference = f"{row.dataset}\0{row.reference}" if row.reference else None
        content = opened[row.image]
        fields = {} if isinstance(content, UserError) else content._asdict()
        listed.append({"member": member, "reference": reference} | asdict(member) | fields)
    columns = [*Member.__annotations__, "member", "reference", *_Content._fields]
    table = pd.DataFrame(listed, columns=columns).sort_values("member")
    # groupby leaves out rows without the key: images that cannot be opened have no digest.
    exact = [_overlap("exact", group) for _, group in table.groupby("digest") if len(group) > 1]
    shared = [_overlap("reference", group) for _, group in table.groupby("reference")]
    overlaps = exact + _near(table) + [overlap for overlap in shared if overlap.leak]
    # Leaks first; the rest of the key makes the order the same for every order of the rows.
    overlaps.sort(key=lambda found: (not found.leak, found.kind, found.bits, found.members))
    summaries = [_summary(group) for _, group in table.groupby(["manifest", "dataset"])]
    notes = [note for manifest in manifests.values() for note in std_notes(manifest.rows)]
    return Check(tuple(summaries), tuple(sorted(broken)), tuple(overlaps), tuple(notes))


def _open(path: Path) -> _Content | UserError:
    try:
        with header(path, MAX_IMAGE_PIXELS) as stored:
            kind = _kind(stored)
        image = open_image(path)
    except UserError as error:
        return error
    bits = imagehash.phash(image, hash_size=_HASH_SIDE).hash.ravel()
    thumbnail = None
    if bits.sum() < _PLAIN_BITS:
        size = (_PLAIN_SIDE, _PLAIN_SIDE)
        thumbnail = np.asarray(image.resize(size, Image.Resampling.BOX)).ravel()
    return _Content(*image.size, kind, image_digest(image), bits, thumbnail)


def _kind(stored: Image.Image) -> str:
    """Format and mode, such as "PNG RGB;16": Pillow opens 16-bit colour as 8-bit RGB, but its decoder knows."""
    raw = ""
    if isinstance(stored, ImageFile.ImageFile) and stored.tile:
        # The decoder's arguments: the raw mode, or a tuple that begins with it.
        arguments = stored.tile[0].args
        raw = arguments if isinstance(arguments, str) else str([*(arguments or ()), ""][0])
    deep = ";16" if ";16" in raw and ";16" not in stored.mode else ""
    return f"{stored.format} {stored.mode}{deep}"


def _overlap(kind: Kind, group: pd.DataFrame, bits: int = 0) -> Overlap:
    return Overlap(kind, tuple(sorted(group["member"])), bits)


def _near(table: pd.DataFrame) -> list[Overlap]:
    """Connected groups of images that look alike; equal pixels and versions of one reference do not count."""
    # An image without a reference gets its digest instead, which only equal pixels share.
    table = table.dropna(subset="digest")
    table = table.assign(reference=table["reference"].fillna(table["digest"]))
    # Rows of equal pixels are compared with the others as one node.
    node = table.groupby(["digest", "reference"]).ngroup().to_numpy()
    contents = table.iloc[np.unique(node, return_index=True)[1]]
    # As numbers, so that pairs are compared as arrays.
    digests, references = (pd.factorize(contents[key])[0] for key in ("digest", "reference"))
    indices = np.arange(len(contents))
    groups = indices  # of each node, so far: the first node that it is connected with
    farthest = np.full(len(contents), -1)  # bits to the farthest node that each looks like
    for i, j, bits in _pairs_alike(contents):
        wanted = (digests[i] != digests[j]) & (references[i] != references[j])
        i, j, bits = i[wanted], j[wanted], bits[wanted]
        np.maximum.at(farthest, i, bits)
        np.maximum.at(farthest, j, bits)
        # After each block only the groups are kept, not the pairs: if all images are alike, these are millions.
        edges = np.append(i, indices), np.append(j, groups)
        graph = coo_array((np.ones(len(edges[0])), edges), shape=(len(contents),) * 2)
        labels = connected_components(graph, directed=False)[1]
        groups = np.unique(labels, return_index=True)[1][labels]
    alike = table[farthest[node] >= 0]
    overlaps = []
    for group, rows in alike.groupby(groups[node[farthest[node] >= 0]]):
        overlaps.append(_overlap("near", rows, int(farthest[groups == group].max())))
    return overlaps


def _pairs_alike(contents: pd.DataFrame) -> Iterator[tuple[Indices, Indices, Indices]]:
    """Indices i, j of all pairs that look alike and their distances in bits, a block at a time."""
    is_plain = contents["thumbnail"].notna().to_numpy()
    plain, textured = np.flatnonzero(is_plain), np.flatnonzero(~is_plain)
    bits = np.array([*contents["bits"][~is_plain]], dtype=np.float32)
    signs = 2 * bits - 1
    # All distances of 10,000 images at once would take 400 MB.
    for start in range(0, len(textured), _BLOCK):
        # A product of signs is the number of equal bits less the number of differing ones.
        agreement = signs[start : start + _BLOCK] @ signs[start:].T
        distances = (_HASH_SIDE**2 - agreement) / 2
        # Above the diagonal, so that each pair comes once and no image is its own pair.
        i, j = np.nonzero(np.triu(distances <= NEAR_BITS, 1))
        yield textured[start + i], textured[start + j], distances[i, j].astype(np.intp)
    if len(plain):
        thumbnails = np.array([*contents["thumbnail"][is_plain]], dtype=np.float32)
        pairs = cKDTree(thumbnails).query_pairs(_PLAIN_LEVELS, p=np.inf, output_type="ndarray")
        i, j = pairs.T
        yield plain[i], plain[j], np.zeros(len(i), dtype=np.intp)


def _summary(rows: pd.DataFrame) -> DatasetSummary:
    splits = Counter(rows["split"])
    # Sorted first, so that kinds that are equally common are in the order of their names.
    kinds = Counter(sorted(rows["kind"].dropna()))
    return DatasetSummary(
        manifest=rows["manifest"].iloc[0],
        dataset=rows["dataset"].iloc[0],
        images=len(rows),
        splits={split: splits[split] for split in (*SPLITS, "") if splits[split]},
        references=rows["reference"].nunique(),
        mos=tuple(rows["mos"].quantile([0, 0.25, 0.5, 0.75, 1])),
        width=_range(rows["width"]),
        height=_range(rows["height"]),
        megapixels=_range(rows["width"] * rows["height"] / 1e6),
        kinds=dict(kinds.most_common()),
    )


def _range(values: pd.Series) -> Range | None:
    # Images that could not be opened have no size.
    return tuple(values.quantile([0, 0.5, 1])) if values.notna().any() else None
