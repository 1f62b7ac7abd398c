"""Everything that looks random, as pure functions of a seed and a name: the same on every machine and in every process.

Nothing here has state, so a run that resumes, or one on two processes, draws what it would have drawn.
The recipes of these functions are fixed: a change would change every score, split and trained weight.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import xxhash
from jaxtyping import Float
from numpy.typing import NDArray


def uniform_streams(
    seed: int, keys: Sequence[str], k: int, length: int
) -> Float[np.ndarray, "b k length"]:
    """Uniform numbers in [0, 1): row (key, k) depends on (seed, key, k) only. A response draws its tokens with them."""

    def stream(key: str, index: int) -> np.ndarray:
        digest = hashlib.blake2b(f"{seed}/{index}/{key}".encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(
            length
        )

    return np.stack([np.stack([stream(key, index) for index in range(k)]) for key in keys])


def order_key(seed: int, name: str) -> bytes:
    """16 bytes to sort names by, for a shuffle that no library's version can change: blake2b of "seed\\0name"."""
    return hashlib.blake2b(
        f"{seed}\0{name}".encode(errors="surrogateescape"), digest_size=16
    ).digest()


def choice(name: str, count: int) -> int:
    """A number in [0, count) that depends on the name alone."""
    return int(hashlib.blake2b(name.encode(), digest_size=4).hexdigest(), 16) % count


def seed_number(text: str) -> int:
    """128 bits of a text (SHA-256)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def generator(text: str) -> np.random.Generator:
    """A generator of its own for each text."""
    return np.random.Generator(np.random.PCG64(seed_number(text)))


def request_seed(seed: int, digest: str, k: int) -> int:
    """The seed of sample `k` of an image with this digest, in [0, 2³¹): what every inference server takes."""
    return xxhash.xxh3_64_intdigest(f"{seed} {digest} {k}".encode()) >> 33


def arrays_digest(arrays: Mapping[str, NDArray[np.floating]]) -> str:
    """Identity of named arrays, 32 hex digits: a hash of names, shapes and bytes, in the order of the names.

    The caller fixes the number format (little-endian float32 for weights of models, float64 for fitted numbers).
    """
    state = xxhash.xxh3_128()
    for name in sorted(arrays):
        values = np.asarray(arrays[name])
        state.update(f"{name}{values.shape}".encode())
        state.update(values.tobytes())
    return state.hexdigest()
