"""Embeddings of recent prompts, least recently used out first."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt


class VectorCache:
    """A bounded map from content hash to embedding. Not thread-safe: used from one event loop.

    Attributes:
        max_entries: 0 remembers nothing.
        hits: look-ups that were answered.
        misses: look-ups that were not.
    """

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self.hits = 0
        self.misses = 0
        self._vectors: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, key: str) -> npt.NDArray[np.float32] | None:
        """Return the embedding of ``key``, shape (d,), or None."""
        vector = self._vectors.get(key)
        if vector is None:
            self.misses += 1
            return None
        self.hits += 1
        self._vectors.move_to_end(key)
        return vector

    def put(self, key: str, vector: npt.NDArray[np.float32]) -> None:
        """Remember an embedding, shape (d,); the least recently used one goes when the cache is full."""
        self._vectors[key] = vector
        self._vectors.move_to_end(key)
        if len(self._vectors) > self.max_entries:
            self._vectors.popitem(last=False)
