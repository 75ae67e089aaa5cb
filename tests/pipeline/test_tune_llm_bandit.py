"""LLM Bandit in a search: trials share stage 1, and a candidate stopped and loaded goes on as it was."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from pipeline import train_llm_bandit
from pipeline.compose import load_config
from pipeline.search import llm_bandit
from pipeline.search.learners import LEARNERS
from pipeline.search.spec import SearchSpec, search_space
from pipeline.search.trial import Candidate
from policies.base import Policy
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.rllib.columns import TRAIN, VALIDATION, training_columns, write_columns
from tests.pipeline.evaluation_case import POOL, outcomes

QUICK = (
    "policy=llm_bandit",
    "policy.identity.members=1",
    "policy.identity.identity_dim=4",
    "policy.identity.components=2",
    "policy.identity.folds=2",
    "policy.simulated_online.epochs=5",
    "policy.pretrain.steps=20",
    "policy.pretrain.batch_size=64",
    "policy.set.width=16",
    "policy.ppo.sets_per_iteration=16",
    "policy.ppo.minibatch_sets=8",
    "policy.ppo.preferences_per_set=2",
)


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchSpec, Path]:
    """What trials of a search have in common, without the search around them."""
    arrays = tmp_path_factory.mktemp("search") / "arrays"
    train, validation = outcomes(200, 0), outcomes(60, 1)
    write_columns(arrays / TRAIN, training_columns(train))
    write_columns(arrays / VALIDATION, training_columns(validation))
    spec = SearchSpec(
        config=load_config(QUICK).plain(),
        models=tuple(asdict(model) for model in POOL.specs),
        embedding_dim=train.embeddings.shape[1],
        reference_tau_usd=train.tau_usd(),
        train_sha256="",
        validation_sha256="",
        parent_run_id="",
    )
    return spec, arrays


def decisions(policy: Policy) -> np.ndarray:
    rows = outcomes(40, 5)
    w = np.tile(np.array([[0.7, 0.3]], dtype=np.float32), (len(rows), 1))
    return policy.action_probabilities(rows.embeddings, w, prompt_tokens=rows.prompt_tokens)


def test_trials_share_stage_1_and_equal_pretraining(search, ray_session, monkeypatch):
    spec, arrays = search
    trained: list[str] = []
    for module, name in ((llm_bandit, "calibrated_identity_vectors"), (train_llm_bandit, "pretrain")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, _o=original, _n=name, **k: (trained.append(_n), _o(*a, **k))[1]
        )
    for values in ({"policy.ppo.lr": 1e-3}, {"policy.ppo.lr": 1e-4}, {"policy.pretrain.lr": 5e-3}):
        candidate = Candidate(spec, values, arrays)
        try:
            metrics = candidate.advance()
            assert np.isfinite([metrics["reward"], metrics["entropy"]]).all()
            assert isinstance(candidate.policy(), LlmBanditPolicy)
        finally:
            candidate.stop()
    assert trained == ["calibrated_identity_vectors", "pretrain", "pretrain"]


def test_a_loaded_candidate_decides_as_the_saved_one(search, ray_session, tmp_path):
    spec, arrays = search
    one, two = (Candidate(spec, {"policy.ppo.lr": 1e-2}, arrays) for _ in range(2))
    try:
        one.advance()
        one.save(tmp_path)
        assert not np.allclose(decisions(two.policy()), decisions(one.policy()), atol=1e-6)
        two.load(tmp_path)
        np.testing.assert_allclose(decisions(two.policy()), decisions(one.policy()), atol=1e-6)
        assert two.advance()["epoch"] == 2
    finally:
        one.stop()
        two.stop()


def test_the_space_leaves_what_trials_share_alone():
    config = load_config(["policy=llm_bandit"])
    keys = search_space(config).dimensions
    assert not [key for key in keys if key.startswith(("train.", "policy.identity"))]
    assert LEARNERS["llm_bandit"].epochs(config) == 30
