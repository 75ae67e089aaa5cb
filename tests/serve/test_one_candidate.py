"""A request that leaves one model does not wait for the encoder."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from policies.bundle import RouterBundle
from policies.encoder import Encoder
from serve.decider import Decider
from serve.embedding import Embedder
from serve.journal.journal import Journal
from serve.journal.records import DecisionRecord
from serve.metrics import Metrics
from serve.question import Constraints, Question
from serve.releases import Release, Releases
from serve.service import Routed, RoutingService
from serve.settings.decision import SessionSettings
from serve.settings.log import DecisionLogSettings

ONE = [
    Constraints(models=("small",)),
    Constraints(exclude=("large", "tiny")),
    Constraints(models=("small", "tiny"), exclude=("tiny",)),
]
SEVERAL = [Constraints(), Constraints(models=("small", "tiny")), Constraints(exclude=("large",))]


class Opened:
    """A service over a real journal, whose encoder is asked of."""

    def __init__(self, bundle: RouterBundle, encoder: Encoder, settings: DecisionLogSettings) -> None:
        self.embedder = Embedder(encoder, cache_entries=10, max_batch_size=8, batch_wait_s=0.0)
        self.journal = Journal.open(settings)
        releases = Releases(Release(bundle, Decider(bundle), self.embedder))
        self.service = RoutingService(releases, self.journal, Metrics(), SessionSettings())

    def route(self, constraints: Constraints, embedding: np.ndarray | None = None) -> Routed:
        question = Question("Which planet?", 5, (0.7, 0.3), constraints, embedding)
        return asyncio.run(self.service.route(question))

    def logged(self, routed: Routed) -> DecisionRecord:
        found = self.journal.find(routed.decision_id)
        assert found is not None
        return found[0]

    @property
    def texts_read(self) -> int:
        return self.embedder.cache.hits + self.embedder.cache.misses


@contextmanager
def opened(bundle: RouterBundle, encoder: Encoder, **log: object) -> Iterator[Opened]:
    service = Opened(bundle, encoder, DecisionLogSettings.model_validate(log))
    try:
        yield service
    finally:
        service.journal.close()


@pytest.fixture
def service(bundle: RouterBundle, encoder: Encoder) -> Iterator[Opened]:
    with opened(bundle, encoder) as found:
        yield found


@pytest.mark.parametrize("constraints", ONE)
def test_one_model_is_chosen_unread(service, constraints):
    decision = service.route(constraints).decision
    assert (decision.model, decision.propensity, decision.probabilities) == ("small", 1.0, {"small": 1.0})
    assert service.texts_read == 0


@pytest.mark.parametrize("constraints", SEVERAL)
def test_several_models_are_chosen_from_by_the_prompt(service, constraints):
    service.route(constraints)
    assert service.texts_read == 1


def test_the_log_has_the_choice_with_its_cost_and_no_score(service, bundle):
    record = service.logged(service.route(ONE[0]))
    assert (record.model, record.propensity, record.eligible) == ("small", 1.0, ("small",))
    expected = bundle.cost_model.expected_costs_usd(np.array([5.0]), 1)[0, 1]
    assert record.expected_cost_usd == record.best_cost_usd == pytest.approx(expected)
    assert record.expected_score is None


def test_the_console_draws_only_what_was_read(service, bundle):
    service.route(ONE[0])
    assert len(service.service.recent.of(bundle.encoder)[0]) == 0
    service.route(SEVERAL[0])
    assert len(service.service.recent.of(bundle.encoder)[0]) == 1


def test_a_log_of_embeddings_has_it_all_the_same(bundle, encoder, tmp_path):
    with opened(bundle, encoder, directory=str(tmp_path), embeddings=True) as service:
        assert service.logged(service.route(ONE[0])).embedding is not None


def test_a_given_embedding_is_used(service):
    vector = np.ones(384, np.float32)
    service.route(ONE[0], vector)
    assert service.texts_read == 0
    assert len(service.service.recent.of(service.embedder.encoder.identity)[0]) == 1
