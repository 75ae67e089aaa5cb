"""LLM Bandit through the train stage, and the table of comparisons."""

import json

import numpy as np
import polars as pl
import pytest

from pipeline import simulate, train
from pipeline.comparisons import load_comparisons
from pipeline.compose import load_config
from pipeline.join import load_outcomes
from pipeline.training_evidence import learning_curves
from policies.bundle import RouterBundle
from policies.constants import BestSinglePolicy
from policies.errors import InputError
from tests.pipeline.test_train import mean_dial_reward, prepared, tables  # noqa: F401

QUICK = (
    "policy=llm_bandit",
    "policy.identity.members=1",
    "policy.identity.identity_dim=4",
    "policy.identity.batch_size=64",
    "policy.identity.lr=1e-2",
    "policy.identity.folds=2",
    "policy.logged.epochs=30",
    "policy.logged.loading_decay=0.1",
    "policy.simulated_online.epochs=15",
    "policy.pretrain.steps=60",
    "policy.ppo.iterations=4",
    "policy.ppo.sets_per_iteration=32",
    "policy.ppo.minibatch_sets=16",
    "policy.ppo.validate_every=2",
)


def quick(tables, run_dir, *overrides):  # noqa: F811
    """A run ready to train LLM Bandit: `prepared` composes its own policy, which is replaced here."""
    _, layout = prepared(tables, run_dir)
    folder, _ = tables
    config = load_config(
        [
            "data=tables",
            f"data.prompts={folder / 'prompts.parquet'}",
            f"data.outcomes={folder / 'outcomes.parquet'}",
            f"pool={folder / 'pool.yaml'}",
            f"run.dir={run_dir}",
            *QUICK,
            *overrides,
        ]
    )
    if config.train.mode == "logged":
        simulate.run(config)
    return config, layout


@pytest.mark.parametrize("mode", ["simulated_online", "logged"])
def test_trained_policy_beats_the_best_single_model(ray_session, tables, tmp_path, mode):  # noqa: F811
    config, layout = quick(tables, tmp_path / "run", f"train.mode={mode}")
    bundle = train.run(config)
    test = load_outcomes(layout, config, ("test",))
    known = load_outcomes(layout, config, ("train",))
    single = BestSinglePolicy.fit(known.pool.models, known.scores, known.costs_usd, bundle.tau_usd)
    gain = mean_dial_reward(bundle.policy, test, bundle.tau_usd) - mean_dial_reward(
        single, test, bundle.tau_usd
    )
    assert gain > 0.02
    assert RouterBundle.load(layout.policy).policy.kind == "llm_bandit"
    curves = learning_curves(layout.history)
    assert all("validation_score_loss" in line for line in curves["identity"])
    assert len(curves["pretrain"]) > 0
    validated = [line["validation_reward"] for line in curves["ppo"] if "validation_reward" in line]
    assert (validated[0], max(validated)) == (
        bundle.notes["pretrained_reward"],
        bundle.notes["validation_reward"],
    )
    assert bundle.notes["validation_reward"] >= bundle.notes["pretrained_reward"]


def comparisons_file(folder, rows):
    path = folder / "comparisons.parquet"
    pl.DataFrame(rows, schema=["prompt_id", "model_a", "model_b", "winner"], orient="row").write_parquet(path)
    return str(path)


@pytest.fixture
def known(tables, tmp_path):  # noqa: F811
    config, layout = quick(tables, tmp_path / "run")
    return load_outcomes(layout, config, ("train",))


def test_comparisons_are_joined_by_prompt_and_model(known, tmp_path):
    one, two = known.prompt_ids[3], known.prompt_ids[7]
    rows = [
        (one, "left", "cheap", "left"),
        (two, "left", "right", "right"),
        (two, "cheap", "right", "tie"),
        ("elsewhere", "left", "right", "left"),
        (one, "left", "unpriced", "left"),
    ]
    pairs = load_comparisons(comparisons_file(tmp_path, rows), known)
    column = {model: i for i, model in enumerate(known.pool.models)}
    assert pairs.first.tolist() == [column["left"], column["left"], column["cheap"]]
    assert pairs.second.tolist() == [column["cheap"], column["right"], column["right"]]
    assert pairs.first_wins.tolist() == [1.0, 0.0, 0.5]
    np.testing.assert_array_equal(pairs.embeddings[1], known.embeddings[7])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("p1", "left", "right", "cheap"), "row 1, column 'winner': 'cheap'; allowed: left, right, tie"),
        (("p1", "left", "left", "left"), "row 1, column 'model_b': 'left'"),
        (("nowhere", "left", "right", "left"), "none of the 1 comparisons"),
    ],
)
def test_bad_comparisons_are_named(known, tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        load_comparisons(comparisons_file(tmp_path, [row]), known)


def test_training_takes_comparisons(ray_session, tables, tmp_path, known):  # noqa: F811
    rows = [(p, "left", "right", "tie") for p in known.prompt_ids[:50]]
    path = comparisons_file(tmp_path, rows)
    config, layout = quick(tables, tmp_path / "with", f"policy.identity.comparisons={path}")
    train.run(config)
    lines = [json.loads(line) for line in layout.history.read_text().splitlines()]
    assert all(line["comparison_loss"] > 0 for line in lines if line["stage"] == "identity")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.set.width=33", "must be a multiple"),
        ("policy.candidates.min_candidates=40", "exceeds max_candidates"),
        ("policy.candidates.ratio_intervals=[[1.0,1.0]]", "is empty"),
    ],
)
def test_settings_that_contradict_each_other_are_named(override, message):
    with pytest.raises(InputError, match=message):
        load_config(["policy=llm_bandit", override])
