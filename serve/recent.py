"""What was asked lately, as the policy saw it: enough to draw the dial over real traffic, in memory only."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from policies.bundle import EncoderIdentity


class RecentContexts:
    """A bounded window of routed contexts. Not thread-safe: used from one event loop.

    Args:
        max_entries: the oldest goes when there are more.
    """

    def __init__(self, max_entries: int = 128) -> None:
        self._entries: deque[tuple[EncoderIdentity, npt.NDArray[np.float32], float]] = deque(
            maxlen=max_entries
        )

    def add(self, encoder: EncoderIdentity, embedding: npt.NDArray[np.float32], prompt_tokens: float) -> None:
        """Remember one context: the vector, shape (d,), who made it, and the prompt's length in tokens."""
        self._entries.append((encoder, embedding, prompt_tokens))

    def of(self, encoder: EncoderIdentity) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Return the embeddings, shape (n, d), and prompt lengths, shape (n,), of one encoder's contexts."""
        kept = [(vector, tokens) for identity, vector, tokens in self._entries if identity == encoder]
        vectors = np.array([vector for vector, _ in kept], dtype=np.float32).reshape(-1, encoder.dimension)
        return vectors, np.array([tokens for _, tokens in kept], dtype=np.float64)
