"""The picture of live traffic, drawn off the event loop and not more often than it is worth."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from policies.costs import estimate_prompt_tokens
from serve.api.errors import ApiError
from serve.console.picture import Contexts, Picture, picture
from serve.console.samples import SAMPLES
from serve.recent import RecentContexts
from serve.releases import Release, Releases

SHORTEST_KEEP_S = 4.0
KEEP_PER_DRAWING_S = 50.0
"""A picture is kept for this many times what drawing it took: watching costs at most 2 % of a core."""


class LivePicture:
    """The champion's picture over recent traffic, over sample prompts until there is some.

    Args:
        releases: the champion is drawn.
        recent: what was asked lately.
        sample: whether the endpoint draws from the policy.
    """

    def __init__(self, releases: Releases, recent: RecentContexts, *, sample: bool) -> None:
        self._releases = releases
        self._recent = recent
        self._sample = sample
        self._drawing = asyncio.Lock()
        self._drawn: tuple[Release, Contexts, Picture] | None = None
        self._keep_until = 0.0

    async def get(self) -> tuple[Release, Contexts, Picture]:
        """Return the picture with whose it is and what it is drawn over; drawn on a thread when it is old.

        Raises:
            ApiError: 503, no sample fits any model.
        """
        async with self._drawing:
            release = self._releases.champion
            if self._drawn is None or self._drawn[0] is not release or time.monotonic() > self._keep_until:
                start = time.monotonic()
                contexts = Contexts("traffic", *self._recent.of(release.bundle.encoder))
                drawn = await asyncio.to_thread(picture, release.decider, contexts, sample=self._sample)
                if drawn is None:
                    contexts = await _samples(release)
                    drawn = await asyncio.to_thread(picture, release.decider, contexts, sample=self._sample)
                if drawn is None:
                    raise ApiError(503, "no_picture", "no prompt fits the context window of any model")
                now = time.monotonic()
                self._keep_until = now + max(SHORTEST_KEEP_S, KEEP_PER_DRAWING_S * (now - start))
                self._drawn = (release, contexts, drawn)
            return self._drawn


async def _samples(release: Release) -> Contexts:
    vectors = await asyncio.gather(*(release.embedder.embed(text) for text in SAMPLES))
    return Contexts("samples", np.stack(vectors), estimate_prompt_tokens(list(SAMPLES)))
