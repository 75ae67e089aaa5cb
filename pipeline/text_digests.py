"""Texts by the first 16 bytes of their SHA-256: what a driver holds of a corpus that is larger than its memory.

Among 1e9 texts two share 16 bytes with a probability below 1e-20. A key is a row of two unsigned 64-bit numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.errors import InputError

KEY_BYTES = 16

Keys = npt.NDArray[np.uint64]
"""Shape (n, 2)."""


def keys_of_texts(texts: Sequence[str]) -> Keys:
    """Return the key of each text, shape (n, 2)."""
    return _keys(b"".join([hashlib.sha256(text.encode()).digest()[:KEY_BYTES] for text in texts]))


def keys_of_hashes(hashes: Sequence[str], source: str) -> Keys:
    """Return the key of each :func:`policies.encoder.content_hash`, shape (n, 2).

    Raises:
        InputError: one of them is no SHA-256 in hex; the message names ``source``.
    """
    try:
        return _keys(b"".join([bytes.fromhex(text)[:KEY_BYTES] for text in hashes]), len(hashes))
    except ValueError:
        row, text = next((i, h) for i, h in enumerate(hashes) if not _is_hash(h))
        raise InputError(
            f"{source}: row {row + 1}, column 'content_hash': {text!r}; allowed: a SHA-256 in hex"
        ) from None


def _is_hash(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) >= KEY_BYTES
    except ValueError:
        return False


def _keys(joined: bytes, n: int | None = None) -> Keys:
    if n is not None and len(joined) != n * KEY_BYTES:
        raise ValueError("too short")
    return np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)


def first_occurrences(keys: Keys) -> npt.NDArray[np.bool_]:
    """Return which rows hold a key for the first time, shape (n,)."""
    order = _sorted_order(keys)
    ordered = keys[order]
    first = np.ones(len(keys), dtype=bool)
    # The sort is stable: of equal keys the first row comes first.
    first[order[1:]] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return first


@dataclass(frozen=True)
class KeyIndex:
    """Keys in ascending order, with where each came from.

    Attributes:
        keys: shape (m, 2), distinct.
        rows: shape (m,), the first row of the key in what the index was built of.
    """

    keys: Keys
    rows: npt.NDArray[np.int64]

    @classmethod
    def of(cls, keys: Keys) -> Self:
        """Build the index of rows of keys; of equal ones the first counts."""
        order = _sorted_order(keys)
        ordered = keys[order]
        distinct = np.ones(len(keys), dtype=bool)
        distinct[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        return cls(ordered[distinct], order[distinct])

    def find(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Return the row of each key, shape (n,), -1 where there is none."""
        found = np.full(len(keys), -1, dtype=np.int64)
        if len(self.keys) == 0 or len(keys) == 0:
            return found
        at = np.searchsorted(self.keys[:, 0], keys[:, 0])
        open_ = np.arange(len(keys))
        while open_.size:  # one pass, but for keys that share their first half
            place = at[open_]
            inside = place < len(self.keys)
            open_, place = open_[inside], place[inside]
            like = self.keys[place, 0] == keys[open_, 0]
            open_, place = open_[like], place[like]
            same = self.keys[place, 1] == keys[open_, 1]
            found[open_[same]] = self.rows[place[same]]
            open_ = open_[~same]
            at[open_] += 1
        return found


def _sorted_order(keys: Keys) -> npt.NDArray[np.int64]:
    return np.lexsort((keys[:, 1], keys[:, 0]))
