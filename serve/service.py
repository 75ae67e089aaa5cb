"""Routing as every route of the API does it: embed, decide, remember, answer."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from serve.decider import Decision
from serve.question import Question
from serve.recent import RecentContexts
from serve.releases import Release, Releases


@dataclass(frozen=True)
class Routed:
    """A decision with what it answers and what made it."""

    decision_id: str
    question: Question
    decision: Decision
    release: Release


class RoutingService:
    """Decides questions with the release that is in charge of them.

    Args:
        releases: the policies at hand.

    Attributes:
        recent: the latest contexts that were routed; the console draws the dial over them.
    """

    def __init__(self, releases: Releases) -> None:
        self._releases = releases
        self.recent = RecentContexts()

    async def route(self, question: Question) -> Routed:
        """Decide one question.

        Raises:
            UnknownModelsError: it names models that the pool does not have.
            NoEligibleModelError: every model is ruled out.
        """
        release = self._releases.pick(question.session_id)
        # Before anything is encoded: a bad request should cost nothing.
        release.decider.check_models(question.constraints.models)
        vector = question.embedding
        if vector is None:
            vector = await release.embedder.embed(question.text)
        decision = release.decider.decide(
            vector,
            question.preference,
            prompt_tokens=question.prompt_tokens,
            models=question.constraints.models,
        )
        self.recent.add(release.bundle.encoder, vector, question.prompt_tokens)
        return Routed(uuid.uuid4().hex, question, decision, release)
