"""The policies that a replica decides with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from policies.bundle import RouterBundle
from policies.bundle_encoder import load_bundle_encoder
from serve.decider import Decider
from serve.embedding import Embedder
from serve.registry import load_bundle
from serve.settings import ServeSettings


@dataclass(frozen=True)
class Release:
    """One policy, ready to decide.

    Attributes:
        bundle: the policy artifact.
        decider: decides with it.
        embedder: the encoder that the policy was trained on; releases with the same encoder share it.
        name: ``champion`` or ``canary``.
    """

    bundle: RouterBundle
    decider: Decider
    embedder: Embedder
    name: str = "champion"

    @classmethod
    def load(cls, settings: ServeSettings) -> Self:
        """Load the policy that the settings name, with its encoder, warmed up.

        Raises:
            InputError: there is no such policy, or its encoder is not available.
        """
        bundle = load_bundle(settings)
        encoder = load_bundle_encoder(
            bundle,
            batch_tokens=settings.encoder_batch_tokens,
            backend=settings.encoder_backend,
            threads=settings.encoder_threads,
        )
        # The first forward pass compiles and allocates; no caller should wait for that.
        encoder.encode(["warm up"])
        embedder = Embedder(
            encoder,
            cache_entries=settings.cache_entries,
            max_batch_size=settings.max_batch_size,
            batch_wait_s=settings.batch_wait_s,
        )
        return cls(
            bundle, Decider(bundle, settings.decision, exploration=settings.routing.exploration), embedder
        )


class Releases:
    """Which release decides for whom. Replaced as a whole, so that a request sees one state."""

    def __init__(self, champion: Release) -> None:
        self.champion = champion

    def pick(self, session_id: str | None) -> Release:
        """Return the release that decides a request."""
        return self.champion
