from __future__ import annotations

import numpy as np

from serve.cache import VectorCache

VECTOR = np.ones(3, dtype=np.float32)


def test_returns_what_was_put():
    cache = VectorCache(2)
    cache.put("a", VECTOR)
    assert cache.get("a") is VECTOR


def test_the_least_recently_used_entry_goes_first():
    cache = VectorCache(2)
    cache.put("a", VECTOR)
    cache.put("b", VECTOR)
    cache.get("a")
    cache.put("c", VECTOR)
    assert cache.get("b") is None
    assert cache.get("a") is not None


def test_size_zero_remembers_nothing():
    cache = VectorCache(0)
    cache.put("a", VECTOR)
    assert len(cache) == 0


def test_counts_hits_and_misses():
    cache = VectorCache(2)
    cache.get("a")
    cache.put("a", VECTOR)
    cache.get("a")
    assert (cache.hits, cache.misses) == (1, 1)
