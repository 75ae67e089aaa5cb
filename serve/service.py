"""Routing as every route of the API does it: embed, decide, remember, answer."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import numpy as np

from policies.encoder import content_hash
from serve.decider import Decision
from serve.journal.journal import Journal
from serve.journal.records import DecisionRecord
from serve.latency import Latencies
from serve.metrics import Metrics
from serve.question import BadEmbeddingError, Question
from serve.recent import RecentContexts
from serve.releases import Release, Releases
from serve.sessions import Stay, stay_of
from serve.settings.decision import SessionSettings
from serve.shadow import decide_along


@dataclass(frozen=True)
class Routed:
    """A decision with what it answers and what made it."""

    decision_id: str
    question: Question
    decision: Decision
    release: Release


class RoutingService:
    """Decides questions with the release that is in charge of them, and records what it decided.

    Args:
        releases: the policies at hand.
        journal: a decision is on its disk before it is returned.
        metrics: figures.
        sessions: when a conversation stays with its model.

    Attributes:
        recent: the latest contexts that were routed; the console draws the dial over them.
        latencies: what models took lately; the gateway tells.
        unhealthy: returns the models that cannot be called now, and why; the gateway sets it.
    """

    def __init__(
        self, releases: Releases, journal: Journal, metrics: Metrics, sessions: SessionSettings
    ) -> None:
        self._releases = releases
        self._journal = journal
        self._metrics = metrics
        self._sessions = sessions
        self._described: set[str] = set()
        self.recent = RecentContexts()
        self.latencies = Latencies()
        self.unhealthy: Callable[[], Mapping[str, str]] = dict

    async def route(self, question: Question) -> Routed:
        """Decide one question and return once the decision is durable.

        Raises:
            UnknownModelsError: it names models that the pool does not have.
            NoEligibleModelError: every model is ruled out.
            BadEmbeddingError: its embedding is not of the encoder's dimension.
            UnknownVersionError: it names a policy version that is not loaded.
        """
        decision_id = self._journal.ids.mint()
        release = self._releases.pick(question.session_id or decision_id, question.policy_version)
        # Before anything is encoded: a bad request should cost nothing.
        release.decider.check_models(question.constraints)
        started = time.perf_counter()
        vector = question.embedding
        if vector is None:
            if self._has_choice(release, question):
                vector = await release.embedder.embed(question.text)
        elif vector.shape != (release.bundle.encoder.dimension,):
            raise BadEmbeddingError(
                f"{vector.shape[0]} numbers; allowed: {release.bundle.encoder.dimension}, of encoder "
                f"{release.bundle.encoder.name}"
            )
        embedded = time.perf_counter()
        self._metrics.stage("embed", embedded - started)
        now = datetime.now(UTC)
        stay = self._stay(question, now)
        decision = release.decider.decide(
            vector,
            question.preference,
            prompt_tokens=question.prompt_tokens,
            constraints=question.constraints,
            unhealthy=self.unhealthy(),
            latencies=self.latencies,
            stay=stay,
            explore=stay is None or self._sessions.explore,
        )
        decided = time.perf_counter()
        self._metrics.stage("decide", decided - embedded)
        routed = Routed(decision_id, question, decision, release)
        record = self._record(routed, vector, now)
        if record.embedding is not None:
            await self._describe(release)
        await self._journal.record(record)
        self._metrics.stage("journal", time.perf_counter() - decided)
        self._metrics.decided(record)
        if vector is None:
            return routed
        self.recent.add(release.bundle.encoder, vector, question.prompt_tokens)
        shadow = self._releases.current.shadow
        if shadow is not None:
            # Later, when the answer is on its way.
            loop = asyncio.get_running_loop()
            loop.call_soon(decide_along, shadow, question, vector, decision, self._metrics)
        return routed

    async def route_many(self, questions: Sequence[Question]) -> list[Routed | Exception]:
        """Decide several questions at once: they share forward passes and commits, and fail one by one."""
        found = await asyncio.gather(
            *(self.route(question) for question in questions), return_exceptions=True
        )
        for result in found:
            if isinstance(result, BaseException) and not isinstance(result, Exception):
                raise result
        return cast(list[Routed | Exception], found)

    async def _describe(self, release: Release) -> None:
        """See to it that the log tells whose vectors it holds."""
        version = release.bundle.policy_version
        if version not in self._described:
            identity = release.embedder.encoder.identity
            await asyncio.to_thread(self._journal.describe_encoder, version, identity)
            self._described.add(version)

    def _has_choice(self, release: Release, question: Question) -> bool:
        """Tell whether anything depends on the embedding: a choice among several models, or the log."""
        if self._journal.settings.embeddings:
            return True
        return release.decider.eligibility.candidates(question.constraints) != 1

    def _stay(self, question: Question, now: datetime) -> Stay | None:
        if question.session_id is None or not self._sessions.sticky:
            return None
        last = self._journal.last_turn(question.session_id)
        return stay_of(last, question.prompt_tokens, now, self._sessions)

    def _record(self, routed: Routed, vector: np.ndarray | None, now: datetime) -> DecisionRecord:
        question, decision, bundle = routed.question, routed.decision, routed.release.bundle
        keeps = self._journal.settings
        scores = decision.expected_scores
        return DecisionRecord(
            decision_id=routed.decision_id,
            timestamp=now,
            prompt_id=_prompt_id(question),
            w_quality=question.preference[0],
            w_cost=question.preference[1],
            eligible=tuple(decision.probabilities),
            model=decision.model,
            propensity=decision.propensity,
            policy_version=bundle.policy_version,
            prompt_tokens=round(question.prompt_tokens),
            expected_score=None if scores is None else scores[decision.model],
            expected_cost_usd=decision.expected_costs_usd[decision.model],
            best_cost_usd=decision.best_cost_usd,
            release=routed.release.name,
            key_id=question.key_id,
            session_id=question.session_id,
            retry_of=question.retry_of,
            metadata=question.metadata,
            embedding=vector if keeps.embeddings else None,
            prompt=question.text or None if keeps.prompts else None,
        )


def _prompt_id(question: Question) -> str:
    if question.text or question.embedding is None:
        return content_hash(question.text)
    return hashlib.sha256(np.ascontiguousarray(question.embedding, dtype="<f4").tobytes()).hexdigest()
