"""LLM Bandit in a search: trials share stage 1, and a candidate stopped and loaded goes on as it was."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline import train_llm_bandit, tune
from pipeline.comparisons import JOINED_COMPARISONS, read_joined, write_joined
from pipeline.compose import SEARCH_FOLDER, load_config
from pipeline.join import load_outcomes
from pipeline.layout import RunLayout
from pipeline.search import llm_bandit
from pipeline.search.learners import LEARNERS
from pipeline.search.spec import SearchFolder, SearchSpec, search_space
from pipeline.search.trial import Candidate
from policies.base import Policy
from policies.errors import InputError
from policies.llm_bandit.contexts import DecisionTable
from policies.llm_bandit.observations import Comparisons
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.rllib.columns import TRAIN, VALIDATION, training_columns, write_columns
from tests.pipeline.evaluation_case import POOL, outcomes, prepared_run

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


def test_trials_learn_from_the_runs_comparisons(search, tmp_path):
    spec, arrays = search
    data = outcomes(200, 0)
    compared = tmp_path / "arrays"
    compared.mkdir()
    (compared / TRAIN).symlink_to(arrays / TRAIN)
    rows, k = np.arange(40), np.zeros(40, dtype=np.int64)
    pairs = Comparisons(data.embeddings[rows], data.prompt_tokens[rows], k, k + 1, np.ones(40))
    write_joined(compared / JOINED_COMPARISONS, pairs)
    config = spec.configuration()
    scores = [
        DecisionTable.open(llm_bandit._stage_1(config, 0.01, root, spec.pool()) / llm_bandit.DECISIONS).inputs
        for root in (arrays, compared)
    ]
    assert not np.allclose(*scores)


def test_a_search_takes_its_runs_comparisons_and_resumes_with_no_others(tmp_path, monkeypatch):
    data = outcomes(300, 0)
    config = prepared_run(tmp_path, data, *QUICK)
    layout, folder = RunLayout.of(config), SearchFolder(config.run.path / SEARCH_FOLDER)
    table = pl.DataFrame(
        {"prompt_id": data.prompt_ids, "model_a": POOL.models[0], "model_b": POOL.models[1], "winner": "tie"}
    )
    table.write_parquet(layout.comparisons)
    monkeypatch.setattr(tune, "_open_parent", lambda config, **rows: "")
    spec = tune._started(config, folder)
    found = read_joined(folder.arrays / JOINED_COMPARISONS)
    assert len(found) == len(load_outcomes(layout, config, (TRAIN,)))
    resumed = config.model_copy(update={"tune": config.tune.model_copy(update={"resume": str(folder.root)})})
    assert tune._resumed(resumed, folder).comparisons_sha256 == spec.comparisons_sha256 is not None
    table.head(200).write_parquet(layout.comparisons)
    with pytest.raises(InputError, match="the comparisons are no longer what the search began with"):
        tune._resumed(resumed, folder)


def test_the_space_leaves_what_trials_share_alone():
    config = load_config(["policy=llm_bandit"])
    keys = search_space(config).dimensions
    assert not [key for key in keys if key.startswith(("train.", "policy.identity"))]
    assert LEARNERS["llm_bandit"].epochs(config) == 30
