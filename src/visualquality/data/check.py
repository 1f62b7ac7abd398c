"""Faults of rated images, to be found before training: unreadable, duplicated, or leaked between splits."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from rich.console import Console
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ..errors import UserError
from ..io import map_ahead, progress_bar, tracked
from .images import MAX_PIXELS, header, image_digest, open_image
from .manifest import SPLITS, Manifest, Row

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
    """An image that cannot be opened, and the sentence that says why."""

    image: str
    problem: str


@dataclass(frozen=True)
class Overlap:
    """Images that share content.

    exact: equal pixels. near: each looks like another of them; `bits` is the largest such distance, of 256
    (0 for blank images and plain ramps). reference: distorted versions of one reference in several splits or manifests.
    """

    kind: Literal["exact", "near", "reference"]
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

    @property
    def clean(self) -> bool:
        return not self.broken and not self.overlaps

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the fields, `clean`, and each overlap's `leak`."""
        overlaps = [{"leak": overlap.leak, **asdict(overlap)} for overlap in self.overlaps]
        return {"clean": self.clean} | asdict(self) | {"overlaps": overlaps}


class _Opened(NamedTuple):
    """What is kept of an image whose pixels were read."""

    width: int
    height: int
    kind: str
    digest: str
    hash: NDArray[np.uint64]  # (4,): 256 bits
    thumbnail: NDArray[np.uint8] | None  # only of an image that is too plain for its hash


class _Listed(NamedTuple):
    """A row of a manifest, and its image if it could be opened."""

    member: Member
    reference: tuple[str, str] | None  # data set and reference: two sets may use the same names
    opened: _Opened | None


def check(manifests: Mapping[str, Manifest], *, console: Console | None = None) -> Check:
    """Open every image of the manifests (name -> manifest), in threads, and compare all of them.

    Read a manifest with `check_images=False`, so that its broken images become findings. Pixels are not kept.

    Near duplicates are found by perceptual hash (`imagehash.phash`, 16 × 16 low frequencies of a 64 × 64 DCT):
    recompressed, resized or slightly cropped copies, and shots of one scene from one place; not turned or mirrored
    ones. Rows of one data set with the same `reference` are near duplicates by nature: only equal pixels
    among them, and a reference in several splits or manifests, are findings.

    A file that several rows name is opened once. console: where a progress bar is shown, if it is a terminal.
    """
    rows = [(name, row) for name, manifest in manifests.items() for row in manifest.rows]
    files = list(dict.fromkeys(row.image for _, row in rows))
    with progress_bar(console or Console(quiet=True)) as bar:
        results = tracked(bar, map_ahead(_open, files), "checking", len(files))
        opened = dict(zip(files, results, strict=True))
    listed = sorted(
        (_listed(name, row, opened[row.image]) for name, row in rows), key=lambda item: item.member
    )
    overlaps = [*_exact(listed), *_near(listed), *_references(listed)]
    # Leaks first; the rest of the key makes the order the same for every order of the rows.
    overlaps.sort(key=lambda found: (not found.leak, found.kind, found.bits, found.members))
    broken = [
        Broken(str(path), str(error))
        for path, error in opened.items()
        if isinstance(error, UserError)
    ]
    return Check(tuple(_summaries(listed)), tuple(sorted(broken)), tuple(overlaps))


def _open(path: Path) -> _Opened | UserError:
    try:
        with header(path, MAX_PIXELS) as stored:
            kind = _kind(stored)
        image = open_image(path)
    except UserError as error:
        return error
    bits = imagehash.phash(image, hash_size=_HASH_SIDE).hash
    thumbnail = None
    if bits.sum() < _PLAIN_BITS:
        size = (_PLAIN_SIDE, _PLAIN_SIDE)
        thumbnail = np.asarray(image.resize(size, Image.Resampling.BOX)).ravel()
    packed = np.packbits(bits).view(np.uint64)
    return _Opened(*image.size, kind, image_digest(image), packed, thumbnail)


def _kind(stored: Image.Image) -> str:
    """Format and mode, such as "PNG RGB;16": Pillow opens 16-bit colour as 8-bit RGB, but its decoder knows."""
    raw = ""
    if isinstance(stored, ImageFile.ImageFile) and stored.tile:
        # The decoder's arguments: the raw mode, or a tuple that begins with it.
        arguments = stored.tile[0].args
        raw = arguments if isinstance(arguments, str) else str([*(arguments or ()), ""][0])
    deep = ";16" if ";16" in raw and ";16" not in stored.mode else ""
    return f"{stored.format} {stored.mode}{deep}"


def _listed(manifest: str, row: Row, opened: _Opened | UserError) -> _Listed:
    member = Member(manifest, row.dataset, row.split or "", str(row.image), row.mos)
    reference = (row.dataset, row.reference) if row.reference else None
    return _Listed(member, reference, None if isinstance(opened, UserError) else opened)


def _exact(listed: Iterable[_Listed]) -> list[Overlap]:
    same: dict[str, list[Member]] = defaultdict(list)
    for item in listed:
        if item.opened is not None:
            same[item.opened.digest].append(item.member)
    groups = [tuple(members) for members in same.values() if len(members) > 1]
    return [Overlap("exact", members) for members in groups]


def _references(listed: Iterable[_Listed]) -> list[Overlap]:
    same: dict[tuple[str, str], list[Member]] = defaultdict(list)
    for item in listed:
        if item.reference is not None:
            same[item.reference].append(item.member)
    overlaps = [Overlap("reference", tuple(members)) for members in same.values()]
    return [overlap for overlap in overlaps if overlap.leak]


def _near(listed: Iterable[_Listed]) -> list[Overlap]:
    """Connected groups of contents that look alike, equal pixels and versions of one reference aside."""
    # Rows of equal pixels are compared with the others as one.
    same: dict[tuple[str, tuple[str, str] | None], list[Member]] = defaultdict(list)
    contents = []
    for item in listed:
        if item.opened is not None:
            key = (item.opened.digest, item.reference)
            if key not in same:
                contents.append(item.opened)
            same[key].append(item.member)
    keys = list(same)
    digests = np.unique([digest for digest, _ in keys], return_inverse=True)[1]
    # Numbers of the references, so that pairs are compared as arrays; -1 is none.
    numbers: dict[tuple[str, str] | None, int] = {None: -1}
    references = np.array([numbers.setdefault(reference, len(numbers)) for _, reference in keys])
    nodes = np.arange(len(keys))
    labels = nodes  # the group that each content is in, so far
    farthest = np.full(len(keys), -1)  # bits to the farthest content that each looks like
    for i, j, bits in _pairs_alike(contents):
        same_reference = (references[i] == references[j]) & (references[i] >= 0)
        listed_pair = (digests[i] != digests[j]) & ~same_reference
        i, j, bits = i[listed_pair], j[listed_pair], bits[listed_pair]
        np.maximum.at(farthest, i, bits)
        np.maximum.at(farthest, j, bits)
        # After each block only the groups are kept, not the pairs: if all images are alike, these are millions.
        # Each content has an edge to the node that stands for its group so far, len(keys) + its label.
        edges = np.append(i, nodes), np.append(j, len(keys) + labels)
        graph = coo_array((np.ones(len(edges[0])), edges), shape=(2 * len(keys),) * 2)
        labels = connected_components(graph, directed=False)[1][nodes]
        labels = np.unique(labels, return_inverse=True)[1]
    groups: dict[int, list[int]] = defaultdict(list)
    for node in np.flatnonzero(farthest >= 0).tolist():
        groups[int(labels[node])].append(node)
    overlaps = []
    for group in groups.values():
        members = sorted(member for node in group for member in same[keys[node]])
        overlaps.append(Overlap("near", tuple(members), int(farthest[group].max())))
    return overlaps


def _pairs_alike(contents: Sequence[_Opened]) -> Iterator[tuple[Indices, Indices, Indices]]:
    """Indices i, j of all pairs that look alike and their distances in bits, a block at a time."""
    plain = np.flatnonzero([content.thumbnail is not None for content in contents])
    textured = np.flatnonzero([content.thumbnail is None for content in contents])
    hashes = np.array([contents[i].hash for i in textured.tolist()], dtype=np.uint64).reshape(-1, 4)
    # All distances of 10,000 images at once would take 3 GB.
    for start in range(0, len(textured), _BLOCK):
        differing = hashes[start : start + _BLOCK, None] ^ hashes[None, start:]
        distances = np.bitwise_count(differing).sum(axis=-1, dtype=np.uint16)
        # Above the diagonal, so that each pair comes once and no image is its own pair.
        i, j = np.nonzero(np.triu(distances <= NEAR_BITS, 1))
        yield textured[start + i], textured[start + j], distances[i, j].astype(np.intp)
    if len(plain):
        thumbnails = np.array([contents[i].thumbnail for i in plain.tolist()], dtype=np.float32)
        pairs = cKDTree(thumbnails).query_pairs(_PLAIN_LEVELS, p=np.inf, output_type="ndarray")
        i, j = pairs.T
        yield plain[i], plain[j], np.zeros(len(i), dtype=np.intp)


def _summaries(listed: Iterable[_Listed]) -> Iterator[DatasetSummary]:
    sets: dict[tuple[str, str], list[_Listed]] = defaultdict(list)
    for item in listed:
        sets[item.member.manifest, item.member.dataset].append(item)
    for (manifest, dataset), own in sets.items():
        opened = [item.opened for item in own if item.opened is not None]
        splits = Counter(item.member.split for item in own)
        kinds = Counter(content.kind for content in opened)
        yield DatasetSummary(
            manifest=manifest,
            dataset=dataset,
            images=len(own),
            splits={split: splits[split] for split in (*SPLITS, "") if splits[split]},
            references=len({item.reference for item in own} - {None}),
            mos=_quantiles([item.member.mos for item in own], (0, 0.25, 0.5, 0.75, 1)),
            width=_range([content.width for content in opened]),
            height=_range([content.height for content in opened]),
            megapixels=_range([content.width * content.height / 1e6 for content in opened]),
            kinds=dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0]))),
        )


def _range(values: Sequence[float]) -> Range | None:
    return _quantiles(values, (0, 0.5, 1)) if values else None


def _quantiles(values: Sequence[float], shares: Sequence[float]) -> Range:
    return tuple(np.quantile(values, shares).tolist())
