"""Training on logs with tiny propensities, without exploration, with models that come and go, and skewed dials."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from pipeline import train
from pipeline.compose import load_config
from pipeline.layout import RunLayout
from pipeline.log_quality import LogQuality
from policies.base import greedy
from policies.bundle import RouterBundle
from policies.errors import InputError
from policies.preference import preferences_from_w_cost
from policies.rllib.columns import training_columns
from tests.pipeline.evaluation_case import POOL, outcomes
from tests.pipeline.log_case import SavedKindPolicy, log_run, registered

BARP = ("policy=barp", "policy.hidden=[8]", "policy.max_epochs=3", "policy.batch_size=64")
OUTCOME_MODEL = ("policy=outcome_model", "policy.members=2", "policy.logged.epochs=4")


@pytest.fixture(autouse=True, scope="module")
def kind_policy():
    with pytest.MonkeyPatch.context() as patch:
        registered(patch)
        yield


def trained(folder, *overrides, change=lambda log: log, n=500):
    run = log_run(folder, SavedKindPolicy(), n=n, change=change)
    return train.run(load_config([f"run={run.run.path}", "train.mode=logged", *overrides]))


def deterministic(log):
    return log.with_columns(propensity=pl.lit(1.0))


def test_barp_refuses_a_log_that_never_explored(tmp_path, ray_session):
    with pytest.raises(InputError, match=r"every propensity is 1.*policy=outcome_model"):
        trained(tmp_path, *BARP, change=deterministic)
    assert not list((tmp_path / "run").glob(".training*"))


def test_outcome_model_learns_from_it_and_says_so(tmp_path, ray_session, capsys):
    bundle = trained(tmp_path, *OUTCOME_MODEL, change=deterministic)
    assert bundle.notes["log"]["deterministic"]
    assert "learning from predicted outcomes alone" in capsys.readouterr().out


def nearly_greedy(log):
    """'dear' is called but for a few events of propensity one in ten thousand."""
    keep = (pl.col("model") == "dear") | (pl.int_range(pl.len()) % 40 == 0)
    return log.filter(keep).with_columns(
        propensity=pl.when(pl.col("model") == "dear").then(0.9998).otherwise(0.0001)
    )


def test_tiny_propensities_are_clipped_and_reported(tmp_path, ray_session, capsys):
    bundle = trained(tmp_path, *BARP, change=nearly_greedy, n=900)
    log = bundle.notes["log"]
    assert 0.0 < log["share_tiny"] < 0.1
    assert log["smallest_propensity"] == pytest.approx(1e-4)
    assert log["effective_events"] < 0.1 * log["n_events"]
    assert abs(bundle.notes["validation_reward"]) < 5.0, "one event outweighs all others"
    assert "importance weights are clipped at 20" in capsys.readouterr().out


def test_events_without_a_score_are_left_out_and_counted(tmp_path, ray_session):
    late = pl.int_range(pl.len()) % 3 == 0
    bundle = trained(
        tmp_path,
        *OUTCOME_MODEL,
        change=lambda log: log.with_columns(score=pl.when(late).then(None).otherwise("score")),
    )
    log = bundle.notes["log"]
    assert bundle.notes["train_rows"] == log["n_events"]
    assert log["n_without_outcome"] == pytest.approx(0.5 * log["n_events"], rel=0.3)


@pytest.mark.parametrize("policy", [BARP, OUTCOME_MODEL], ids=["barp", "outcome_model"])
def test_models_that_came_late_or_never_leave_a_policy_that_decides(policy, tmp_path, ray_session, capsys):
    def late_and_never(log):
        late = pl.int_range(pl.len()) < 250
        gone = (pl.col("model") == "cheap") | (late & (pl.col("model") == "code"))
        there = pl.when(late).then(pl.lit(["dear"])).otherwise(pl.lit(["dear", "code"]))
        return log.with_columns(eligible=there, propensity=pl.when(late).then(1.0).otherwise(0.5)).filter(
            ~gone
        )

    bundle = trained(tmp_path, *policy, change=late_and_never)
    assert bundle.notes["log"]["events_per_model"]["cheap"] == 0
    assert "no scored event of cheap" in capsys.readouterr().out
    data = outcomes(50, 9)
    eligible = np.ones((50, 3), dtype=bool)
    eligible[:25, 0] = False
    decided = greedy(
        bundle.policy.action_probabilities(
            data.embeddings, preferences_from_w_cost(0.3, 50), eligible, prompt_tokens=data.prompt_tokens
        )
    )
    assert (decided.sum(axis=1) == 1.0).all()
    assert (decided[~eligible] == 0.0).all()


def test_the_logs_preferences_do_not_matter_to_the_learner(tmp_path, ray_session):
    def skewed(log):
        return log.with_columns(w_quality=pl.lit(0.02), w_cost=pl.lit(0.98))

    versions = []
    for name, change in (("even", lambda log: log), ("skewed", skewed)):
        (tmp_path / name).mkdir()
        versions.append(trained(tmp_path / name, *OUTCOME_MODEL, change=change).policy_version)
    assert versions[0] == versions[1]


def test_artifact_keeps_the_figures(tmp_path, ray_session):
    bundle = trained(tmp_path, *OUTCOME_MODEL)
    again = RouterBundle.load(RunLayout(tmp_path / "run").policy)
    assert again.notes["log"] == bundle.notes["log"]
    assert again.notes["log"]["share_explored"] == 1.0
    assert sum(again.notes["log"]["events_per_model"].values()) == again.notes["train_rows"]


def test_quality_counts_unscored_events_apart(tmp_path):
    from pipeline.join import load_feedback

    config = log_run(tmp_path, SavedKindPolicy(), n=300)
    log = load_feedback(RunLayout.of(config), config, ("train",))
    scores = log.scores.copy()
    scores[:5] = np.nan
    quality = LogQuality.of(replace(log, scores=scores))
    assert (quality.n_events, quality.n_without_outcome) == (len(log) - 5, 5)
    assert len(training_columns(replace(log, scores=scores))["actions"]) == quality.n_events
    assert set(quality.events_per_model) == set(POOL.models)
