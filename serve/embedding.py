"""Prompts to vectors on an event loop: remembered ones at once, fresh ones in batches on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from ray import serve
from ray.serve.exceptions import RayServeException

from policies.encoder import Encoder, content_hash
from serve.cache import VectorCache


class Embedder:
    """Embeds one text at a time for many concurrent callers.

    Fresh texts are encoded in batches that form by themselves: one forward pass runs at a time, what arrives
    meanwhile is the next batch. With ``batch_wait_s`` 0 a text never waits for company, so a lone request pays
    for its own forward pass and nothing else. Outside Ray Serve texts are encoded one by one.

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

        async def encode_together(texts: list[str]) -> list[npt.NDArray[np.float32]]:
            loop = asyncio.get_running_loop()
            return list(await loop.run_in_executor(self._thread, encoder.encode, texts))

        async def encode_alone(text: str) -> npt.NDArray[np.float32]:
            return (await encode_together([text]))[0]

        self._encode: Callable[[str], Awaitable[npt.NDArray[np.float32]]] = encode_alone
        if _inside_replica():
            batched = serve.batch(max_batch_size=max_batch_size, batch_wait_timeout_s=batch_wait_s)
            self._encode = batched(encode_together)

    async def embed(self, text: str) -> npt.NDArray[np.float32]:
        """Return the embedding of a text, shape (d,)."""
        key = content_hash(text)
        vector = self.cache.get(key)
        if vector is None:
            vector = await self._encode(text)
            self.cache.put(key, vector)
        return vector


def _inside_replica() -> bool:
    """Tell whether Ray Serve runs this process; its batching works nowhere else."""
    try:
        serve.get_replica_context()
    except RayServeException:
        return False
    return True
