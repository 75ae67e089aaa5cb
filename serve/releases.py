"""The policies that a replica decides with, and how they change while it answers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Self

import numpy as np

from policies.bundle import EncoderIdentity, RouterBundle
from policies.bundle_encoder import load_bundle_encoder
from policies.errors import InputError
from serve.decider import Decider, check_exploration
from serve.embedding import Embedder
from serve.question import UnknownVersionError
from serve.registry import Target, Wanted, fetch, wanted
from serve.settings import ServeSettings

logger = logging.getLogger(__name__)

CANARY_STEPS = 10_000
"""The canary's part of the traffic is exact to a hundredth of a per cent."""


@dataclass(frozen=True)
class Release:
    """One policy, ready to decide.

    Attributes:
        bundle: the policy artifact.
        decider: decides with it.
        embedder: the encoder that the policy was trained on; all releases share it.
        name: ``champion``, ``canary``, ``shadow`` or ``pinned``.
    """

    bundle: RouterBundle
    decider: Decider
    embedder: Embedder
    name: str = "champion"

    @classmethod
    def load(cls, settings: ServeSettings) -> Self:
        """Load the policy that the settings name, with its encoder, warmed up.

        Raises:
            InputError: see :meth:`Releases.open`.
        """
        return cls._of(settings, RouterBundle.load(fetch(settings, wanted(settings).champion)))

    @classmethod
    def _of(cls, settings: ServeSettings, bundle: RouterBundle) -> Self:
        check_exploration(bundle, settings.routing.exploration)
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
        return cls(bundle, _decider(settings, bundle), embedder)


@dataclass(frozen=True)
class ReleaseSet:
    """What decides, at one moment.

    Attributes:
        champion: by default.
        canary: for ``canary_percent`` of the sessions.
        canary_percent: 0 to 100.
        shadow: along, without effect.
        pinned: by policy version: what requests may name.
    """

    champion: Release
    canary: Release | None = None
    canary_percent: float = 0.0
    shadow: Release | None = None
    pinned: dict[str, Release] = field(default_factory=dict)

    def versions(self) -> dict[str, str]:
        """Return the policy version of each release in use, by name."""
        used = (self.champion, self.canary, self.shadow)
        return {release.name: release.bundle.policy_version for release in used if release is not None}


class Releases:
    """Which release decides for whom. Replaced as a whole, so that a request sees one state.

    Args:
        champion: decides by default.
        settings: where releases come from; None when they never change.

    Attributes:
        error: why the last attempt to load releases failed, None when it did not.
        loaded_at: when what is in use was loaded, UTC.
        on_change: called with the new state after each change.
    """

    def __init__(self, champion: Release, settings: ServeSettings | None = None) -> None:
        self._settings = settings
        self._loading = asyncio.Lock()
        self.current = ReleaseSet(champion)
        self.error: str | None = None
        self.loaded_at = datetime.now(UTC)
        self.on_change: list[Callable[[ReleaseSet], None]] = []

    @classmethod
    def open(cls, settings: ServeSettings) -> Self:
        """Load what the settings name.

        Raises:
            InputError: there is no such policy, its encoder is not available, or it cannot explore as it is to.
        """
        asked = wanted(settings)
        champion = Release._of(settings, RouterBundle.load(fetch(settings, asked.champion)))
        releases = cls(champion, settings)
        releases.current = _load(settings, asked, releases.current)
        return releases

    @property
    def champion(self) -> Release:
        """What decides by default."""
        return self.current.champion

    @champion.setter
    def champion(self, release: Release) -> None:
        self.current = replace(self.current, champion=release)

    def pick(self, key: str | None, policy_version: str | None = None) -> Release:
        """Return the release that decides a request.

        Args:
            key: the session, or what else identifies the request; the same key goes to the same release.
            policy_version: the version that the request names.

        Raises:
            UnknownVersionError: that version is not loaded.
        """
        current = self.current
        if policy_version is not None:
            return self._named(current, policy_version)
        if current.canary is None or key is None:
            return current.champion
        # Salted with the version: the next canary should not meet the same sessions again.
        salted = f"{current.canary.bundle.policy_version}:{key}".encode()
        step = int.from_bytes(hashlib.blake2b(salted, digest_size=8).digest()) % CANARY_STEPS
        return current.canary if step < current.canary_percent * CANARY_STEPS / 100 else current.champion

    async def reload(self) -> bool:
        """Load what should be served now; return whether anything changed.

        Requests go on with what is in use. When loading fails that stays, and :attr:`error` says why.

        Raises:
            InputError: what should be served cannot be.
        """
        if self._settings is None:
            return False
        async with self._loading:
            before = self.current
            try:
                after = await asyncio.to_thread(self._loaded, self._settings, before)
            except InputError as error:
                self.error = str(error)
                raise
            except Exception as error:
                # A damaged artifact fails in as many ways as there are formats.
                self.error = f"the policy cannot be loaded: {type(error).__name__}"
                raise InputError(self.error) from error
            self.error = None
            if after is before:
                return False
            self.current, self.loaded_at = after, datetime.now(UTC)
        for told in self.on_change:
            told(after)
        logger.info("releases in use: %s", after.versions())
        return True

    async def check(self, target: Target, *, explores: bool = True) -> None:
        """Make sure that a version could be served here.

        Args:
            target: the version.
            explores: whether it would answer prompts, and so explore; a shadow only has its decisions compared.

        Raises:
            InputError: it could not.
        """
        settings, ours = self._settings, self.champion.bundle.encoder
        if settings is None:
            raise InputError("these releases never change")
        bundle = await asyncio.to_thread(_read, settings, target)
        _check_encoder(settings, bundle, ours)
        if explores:
            check_exploration(bundle, settings.routing.exploration)

    @staticmethod
    def _loaded(settings: ServeSettings, before: ReleaseSet) -> ReleaseSet:
        return _load(settings, wanted(settings), before)

    @staticmethod
    def _named(current: ReleaseSet, version: str) -> Release:
        found = {
            release.bundle.policy_version: release
            for release in (*current.pinned.values(), current.shadow, current.canary, current.champion)
            if release is not None
        }
        if version not in found:
            raise UnknownVersionError(version, sorted(found))
        return replace(found[version], name="pinned")


def _load(settings: ServeSettings, asked: Wanted, before: ReleaseSet) -> ReleaseSet:
    """Return what is asked for, with what is loaded already; ``before`` itself when nothing differs."""
    at_hand = {
        release.bundle.policy_version: release
        for release in (*before.pinned.values(), before.shadow, before.canary, before.champion)
        if release is not None
    }
    embedder = before.champion.embedder

    def ready(target: Target, name: str) -> Release:
        found = at_hand.get(target.policy_version)
        if found is None:
            bundle = _read(settings, target)
            _check_encoder(settings, bundle, before.champion.bundle.encoder)
            decider = _decider(settings, bundle)
            # Once before the switch, so that nobody waits for what a first decision sets up.
            decider.decide(np.zeros(bundle.encoder.dimension, np.float32), (0.5, 0.5), prompt_tokens=1.0)
            found = at_hand[target.policy_version] = Release(bundle, decider, embedder)
        if name in ("champion", "canary"):  # the others are there to compare with
            check_exploration(found.bundle, settings.routing.exploration)
        return found if found.name == name else replace(found, name=name)

    after = ReleaseSet(
        champion=ready(asked.champion, "champion"),
        canary=None if asked.canary is None else ready(asked.canary, "canary"),
        canary_percent=asked.canary_percent,
        shadow=None if asked.shadow is None else ready(asked.shadow, "shadow"),
        pinned={target.policy_version: ready(target, "pinned") for target in asked.pinned},
    )
    same = (
        after.versions() == before.versions()
        and after.canary_percent == before.canary_percent
        and after.pinned.keys() == before.pinned.keys()
    )
    return before if same else after


def _read(settings: ServeSettings, target: Target) -> RouterBundle:
    bundle = RouterBundle.load(fetch(settings, target))
    if bundle.policy_version != target.policy_version:
        raise InputError(f"{target.location}: changed while it was read; reload again")
    return bundle


def _decider(settings: ServeSettings, bundle: RouterBundle) -> Decider:
    return Decider(bundle, settings.decision, exploration=settings.routing.exploration)


def _check_encoder(settings: ServeSettings, bundle: RouterBundle, ours: EncoderIdentity) -> None:
    theirs = bundle.encoder
    if settings.encoder_backend is not None:
        theirs = replace(theirs, backend=ours.backend)
    if theirs != ours:
        raise InputError(
            f"policy {bundle.policy_version} was trained on encoder {theirs.name} ({theirs.backend}, weights "
            f"{theirs.weights_sha256[:12]}, {theirs.max_tokens} tokens), this endpoint has {ours.name} "
            f"({ours.backend}, weights {ours.weights_sha256[:12]}, {ours.max_tokens} tokens): deploy it anew"
        )
