"""What is wrong with rated images before anything is trained on them: broken, twice there, or in two splits."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ..errors import UserError
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
_PLAIN_SIDE, _PLAIN_LEVELS = 8, 2  # of a thumbnail's 8-bit values
_BLOCK = 256  # rows of the matrix of distances that are in memory at a time
_THREADS = min(8, os.cpu_count() or 1)  # each holds one decoded image

Range = tuple[float, ...]


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
    (0 for blank images and plain ramps). reference: distorted versions of one original in several splits or manifests.
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


class _Look(NamedTuple):
    """What is kept of an image that was opened."""

    width: int
    height: int
    kind: str
    digest: str
    hash: NDArray[np.uint64]  # (4,): 256 bits
    plain: NDArray[np.uint8] | None  # thumbnail of one whose hash says nothing


class _Place(NamedTuple):
    member: Member
    reference: tuple[str, str] | None  # data set and reference
    look: _Look | None


def check(
    manifests: Mapping[str, Manifest], *, on_image: Callable[[], None] = lambda: None
) -> Check:
    """Open every image of the manifests (name -> manifest), in threads, and compare all of them.

    Read a manifest with `check_images=False`, so that its broken images become findings. Pixels are not kept.

    Near duplicates are found by perceptual hash (`imagehash.phash`, 16 × 16 low frequencies of a 64 × 64 DCT):
    recompressed, resized or slightly cropped copies, and shots of one scene from one place; not turned or mirrored
    ones. Rows of one data set with the same `reference` are near duplicates by nature: only equal pixels
    among them, and a reference in several splits or manifests, are findings.

    on_image: called after each image; a file that several rows name is opened once.
    """
    files = images_of(manifests)
    looks: dict[Path, _Look | UserError] = {}
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for path, look in zip(files, pool.map(_look, files), strict=True):
            looks[path] = look
            on_image()
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, wait for the images under way only
    places = [
        _place(name, row, looks[row.image])
        for name, manifest in manifests.items()
        for row in manifest.rows
    ]
    places.sort(key=lambda place: place.member)
    overlaps = [*_exact(places), *_near(places), *_references(places)]
    overlaps.sort(
        key=lambda overlap: (not overlap.leak, overlap.kind, overlap.bits, overlap.members)
    )
    broken = (
        Broken(str(path), str(look)) for path, look in looks.items() if isinstance(look, UserError)
    )
    return Check(tuple(_summaries(places)), tuple(sorted(broken)), tuple(overlaps))


def images_of(manifests: Mapping[str, Manifest]) -> list[Path]:
    """The files that `check` opens, each once."""
    return list(
        dict.fromkeys(row.image for manifest in manifests.values() for row in manifest.rows)
    )


def _look(path: Path) -> _Look | UserError:
    try:
        with header(path, MAX_PIXELS) as stored:
            kind = _kind(stored)
        image = open_image(path)
    except UserError as error:
        return error
    side = _HASH_SIDE * 4
    small = image.convert("L").resize((side, side), Image.Resampling.LANCZOS)
    bits = imagehash.phash(small, hash_size=_HASH_SIDE).hash
    thumbnail = (
        image.resize((_PLAIN_SIDE, _PLAIN_SIDE), Image.Resampling.BOX)
        if bits.sum() < _PLAIN_BITS
        else None
    )
    plain = None if thumbnail is None else np.asarray(thumbnail).ravel()
    return _Look(*image.size, kind, image_digest(image), np.packbits(bits).view(np.uint64), plain)


def _kind(stored: Image.Image) -> str:
    """Format and mode, such as "PNG RGB;16": Pillow opens 16-bit colour as 8-bit RGB, but its decoder knows."""
    tile = stored.tile[0].args if isinstance(stored, ImageFile.ImageFile) and stored.tile else ""
    raw = tile if isinstance(tile, str) else str(tile[0]) if tile else ""
    deep = ";16" if ";16" in raw and ";16" not in stored.mode else ""
    return f"{stored.format} {stored.mode}{deep}"


def _place(manifest: str, row: Row, look: _Look | UserError) -> _Place:
    member = Member(manifest, row.dataset, row.split or "", str(row.image), row.mos)
    reference = (row.dataset, row.reference) if row.reference else None
    return _Place(member, reference, None if isinstance(look, UserError) else look)


def _exact(places: Iterable[_Place]) -> list[Overlap]:
    same: dict[str, list[Member]] = defaultdict(list)
    for place in places:
        if place.look is not None:
            same[place.look.digest].append(place.member)
    return [Overlap("exact", tuple(members)) for members in same.values() if len(members) > 1]


def _references(places: Iterable[_Place]) -> list[Overlap]:
    same: dict[tuple[str, str], list[Member]] = defaultdict(list)
    for place in places:
        if place.reference is not None:
            same[place.reference].append(place.member)
    overlaps = [Overlap("reference", tuple(members)) for members in same.values()]
    return [overlap for overlap in overlaps if overlap.leak]


def _near(places: Iterable[_Place]) -> list[Overlap]:
    """Connected groups of contents that look alike, equal pixels and versions of one reference aside."""
    same: dict[tuple[str, tuple[str, str] | None], list[Member]] = defaultdict(list)
    looks = []
    for place in places:
        if place.look is not None:
            key = (place.look.digest, place.reference)
            if key not in same:
                looks.append(place.look)
            same[key].append(place.member)
    if not looks:
        return []
    digests = np.unique([digest for digest, _ in same], return_inverse=True)[1]
    numbers: dict[tuple[str, str] | None, int] = {None: -1}
    groups = np.array([numbers.setdefault(reference, len(numbers)) for _, reference in same])
    first = np.arange(len(looks))  # of the connected group that each is in, so far
    most = np.full(len(looks), -1)  # bits to the farthest that it looks like
    for i, j, bits in _pairs(looks):
        listed = (digests[i] != digests[j]) & ((groups[i] != groups[j]) | (groups[i] < 0))
        i, j, bits = i[listed], j[listed], bits[listed]
        first = _connected(np.append(i, np.arange(len(first))), np.append(j, first))
        np.maximum.at(most, i, bits)
        np.maximum.at(most, j, bits)
    found: dict[int, list[int]] = defaultdict(list)
    for index in np.flatnonzero(most >= 0).tolist():
        found[int(first[index])].append(index)
    members = list(same.values())
    return [
        Overlap(
            "near", tuple(sorted(m for index in own for m in members[index])), int(most[own].max())
        )
        for own in found.values()
    ]


def _connected(i: NDArray[np.intp], j: NDArray[np.intp]) -> NDArray[np.intp]:
    """The first member of each node's group, of the nodes 0 to max(i) that the edges i-j connect."""
    nodes = int(i.max()) + 1
    graph = coo_array((np.ones(len(i), dtype=bool), (i, j)), shape=(nodes, nodes))
    labels = connected_components(graph, directed=False)[1]
    return np.unique(labels, return_index=True)[1][labels]


def _pairs(
    looks: Sequence[_Look],
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]]:
    """Indices i, j of all pairs that look alike and their distances in bits, a block of rows at a time."""
    textured = np.array(
        [index for index, look in enumerate(looks) if look.plain is None], dtype=np.intp
    )
    hashes = np.array([looks[index].hash for index in textured], dtype=np.uint64).reshape(-1, 4)
    for start in range(0, len(textured), _BLOCK):
        rows = hashes[start : start + _BLOCK, None]
        differing = np.bitwise_count(rows ^ hashes[None, start:]).sum(axis=-1, dtype=np.uint16)
        i, j = np.nonzero(np.triu(differing <= NEAR_BITS, 1))
        yield textured[start + i], textured[start + j], differing[i, j].astype(np.intp)
    plain = [(index, look.plain) for index, look in enumerate(looks) if look.plain is not None]
    if plain:
        indices = np.array([index for index, _ in plain])
        thumbnails = np.array([thumbnail for _, thumbnail in plain], dtype=np.float32)
        i, j = cKDTree(thumbnails).query_pairs(_PLAIN_LEVELS, p=np.inf, output_type="ndarray").T
        yield indices[i], indices[j], np.zeros(len(i), dtype=np.intp)


def _summaries(places: Iterable[_Place]) -> Iterator[DatasetSummary]:
    sets: dict[tuple[str, str], list[_Place]] = defaultdict(list)
    for place in places:
        sets[place.member.manifest, place.member.dataset].append(place)
    for (manifest, dataset), own in sets.items():
        looks = [place.look for place in own if place.look is not None]
        splits = Counter(place.member.split for place in own)
        kinds = Counter(look.kind for look in looks)
        yield DatasetSummary(
            manifest=manifest,
            dataset=dataset,
            images=len(own),
            splits={split: splits[split] for split in (*SPLITS, "") if splits[split]},
            references=len({place.reference for place in own} - {None}),
            mos=_quantiles([place.member.mos for place in own], (0, 0.25, 0.5, 0.75, 1)),
            width=_quantiles([look.width for look in looks]) if looks else None,
            height=_quantiles([look.height for look in looks]) if looks else None,
            megapixels=_quantiles([look.width * look.height / 1e6 for look in looks])
            if looks
            else None,
            kinds=dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0]))),
        )


def _quantiles(values: Sequence[float], shares: Sequence[float] = (0, 0.5, 1)) -> Range:
    return tuple(np.quantile(values, shares).tolist())
