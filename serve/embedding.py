"""Prompts to vectors on an event loop: remembered ones at once, fresh ones in batches on a thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from ray import serve

from policies.encoder import Encoder, content_hash
from serve.cache import VectorCache


class Embedder:
    """Embeds one text at a time for many concurrent callers.

    Fresh texts are encoded in batches that form by themselves: one forward pass runs at a time, what arrives
    meanwhile is the next batch. With ``batch_wait_s`` 0 a text never waits for company, so a lone request pays
    for its own forward pass and nothing else.

    Args:
        encoder: the frozen encoder; called from one thread of its own.
        cache_entries: embeddings remembered.
        max_batch_size: texts of one forward pass at most.
        batch_wait_s: how long the first text of a batch waits for others.
    """

    def __init__(
        self, encoder: Encoder, *, cache_entries: int, max_batch_size: int, batch_wait_s: float
    ) -> None:
        self.encoder = encoder
        self.cache = VectorCache(cache_entries)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")

        @serve.batch(max_batch_size=max_batch_size, batch_wait_timeout_s=batch_wait_s)
        async def encode_together(texts: list[str]) -> list[npt.NDArray[np.float32]]:
            loop = asyncio.get_running_loop()
            return list(await loop.run_in_executor(self._thread, encoder.encode, texts))

        self._encode_together = encode_together

    async def embed(self, text: str) -> npt.NDArray[np.float32]:
        """Return the embedding of a text, shape (d,)."""
        key = content_hash(text)
        vector = self.cache.get(key)
        if vector is None:
            vector = await self._encode_together(text)
            self.cache.put(key, vector)
        return vector
