"""LLM Bandit through the train stage, and the table of comparisons."""

import numpy as np
import polars as pl
import pytest

from pipeline import ingest, simulate, train
from pipeline.comparisons import RunComparisons, comparisons_hash, read_comparisons, training_comparisons
from pipeline.compose import load_config
from pipeline.embedding_table import write_embeddings
from pipeline.join import load_outcomes
from pipeline.provenance import read_provenance
from pipeline.train_llm_bandit import train_llm_bandit
from pipeline.training import TrainingInputs
from pipeline.training_evidence import learning_curves
from policies.bundle import RouterBundle
from policies.constants import BestSinglePolicy
from policies.errors import InputError
from tests.pipeline.test_train import config_over, mean_dial_reward, prepared, tables  # noqa: F401

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
    config = config_over(tables, run_dir, *QUICK, *overrides)
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
    path = folder / "comparisons.csv"
    pl.DataFrame(rows, schema=["prompt_id", "model_a", "model_b", "winner"], orient="row").write_csv(path)
    return str(path)


@pytest.fixture
def known(tables, tmp_path):  # noqa: F811
    config, layout = quick(tables, tmp_path / "run")
    return load_outcomes(layout, config, ("train",))


def ingested(tables, tmp_path, rows):  # noqa: F811
    """Ingest again with comparisons; return the run's layout."""
    _, layout = quick(tables, tmp_path / "run")
    ingest.run(config_over(tables, layout.root, f"data.comparisons={comparisons_file(tmp_path, rows)}"))
    write_embeddings(tables[1], layout.embeddings)
    return layout


def test_comparisons_are_joined_by_prompt_and_model(tables, known, tmp_path):  # noqa: F811
    held = next(p for p in (f"p{i}" for i in range(600)) if p not in set(known.prompt_ids))
    one, two = known.prompt_ids[3], known.prompt_ids[7]
    rows = [
        (one, "left", "cheap", "left"),
        (two, "left", "right", "right"),
        (two, "cheap", "right", "tie"),
        (held, "left", "right", "left"),
    ]
    layout = ingested(tables, tmp_path, rows)
    compared = RunComparisons.of(layout)
    pairs = training_comparisons(compared, known)
    assert pairs is not None
    column = {model: i for i, model in enumerate(known.pool.models)}
    assert pairs.first.tolist() == [column["left"], column["left"], column["cheap"]]
    assert pairs.second.tolist() == [column["cheap"], column["right"], column["right"]]
    assert pairs.first_wins.tolist() == [1.0, 0.0, 0.5]
    np.testing.assert_array_equal(pairs.embeddings[1], known.embeddings[7])
    provenance = read_provenance(layout)
    assert provenance is not None
    assert provenance.notes == (f"4 comparisons, sha256 {compared.sha256}",)


def test_their_hash_is_that_of_the_rows_in_any_order():
    rows = pl.DataFrame(
        {"prompt_id": ["p1", "p2"], "model_a": ["a", "a"], "model_b": ["b", "b"], "winner": ["a", "tie"]}
    )
    assert comparisons_hash(rows) == comparisons_hash(rows.reverse())
    assert comparisons_hash(rows) != comparisons_hash(rows.with_columns(winner=pl.lit("a")))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("p1", "left", "right", "cheap"), "row 2, column 'winner': 'cheap'; allowed: left, right, tie"),
        (("p1", "left", "left", "left"), "row 2, column 'model_b': 'left'"),
        (
            ("nowhere", "left", "right", "left"),
            "row 2, column 'prompt_id': 'nowhere' is not in the prompts table",
        ),
        (("p1", "left", "unpriced", "left"), "row 2, column 'model_b': model 'unpriced' has no price"),
        (("p1", "", "right", "tie"), "row 2, column 'model_a'"),
    ],
)
def test_bad_comparisons_are_named_and_nothing_is_written(tmp_path, row, message):
    path = comparisons_file(tmp_path, [("p1", "left", "right", "tie"), row])
    with pytest.raises(InputError, match=message):
        read_comparisons(path, ["p1"], ("left", "right", "cheap"), ("left", "right", "cheap"))


def test_models_without_a_price_may_be_left_out(tmp_path):
    rows = [("p1", "left", "unpriced", "left"), ("p1", "left", "right", "left")]
    used = read_comparisons(comparisons_file(tmp_path, rows), ["p1"], ("left", "right"), None)
    assert used["model_b"].to_list() == ["right"]
    with pytest.raises(InputError, match="none of the 1 comparisons is between two models of the pool"):
        read_comparisons(comparisons_file(tmp_path, rows[:1]), ["p1"], ("left", "right"), None)


def test_ingest_without_comparisons_leaves_none_of_an_earlier_one(tables, known, tmp_path):  # noqa: F811
    layout = ingested(tables, tmp_path, [(known.prompt_ids[0], "left", "right", "tie")])
    assert layout.comparisons.exists()
    quick(tables, tmp_path / "run")
    assert not layout.comparisons.exists()
    assert training_comparisons(RunComparisons.of(layout), known) is None


def test_comparisons_on_other_prompts_alone_are_told(tables, known, tmp_path):  # noqa: F811
    held = next(p for p in (f"p{i}" for i in range(600)) if p not in set(known.prompt_ids))
    layout = ingested(tables, tmp_path, [(held, "left", "right", "tie")])
    with pytest.raises(InputError, match=r"none of the 1 comparisons is .* on a training prompt"):
        training_comparisons(RunComparisons.of(layout), known)


def test_training_takes_the_runs_comparisons(tables, tmp_path, known):  # noqa: F811
    rows = [(p, "left", "right", "tie") for p in known.prompt_ids[:50]]
    layout = ingested(tables, tmp_path, rows)
    config = load_config([*QUICK, "policy.ppo.iterations=0", f"run.dir={layout.root}"])
    validation = load_outcomes(layout, config_over(tables, layout.root), ("validation",))
    lines: list[dict] = []
    compared = RunComparisons.of(layout)
    layout.comparisons.unlink()  # a learner elsewhere does not see the run's folder
    inputs = TrainingInputs(known, validation, known.tau_usd(), tmp_path, lines.append, compared)
    trained = train_llm_bandit(config, inputs)
    assert all(line["comparison_loss"] > 0 for line in lines if line["stage"] == "identity")
    assert trained.notes["comparisons"] == 50


def test_the_stage_hands_its_comparisons_to_the_learner(ray_session, tables, known, tmp_path, monkeypatch):  # noqa: F811
    layout = ingested(tables, tmp_path, [(p, "left", "right", "tie") for p in known.prompt_ids[:9]])
    given: list[TrainingInputs] = []

    def stop(config, inputs):
        given.append(inputs)
        raise InputError("seen")

    monkeypatch.setitem(train.TRAINERS, "llm_bandit", stop)
    with pytest.raises(InputError, match="seen"):
        train.run(config_over(tables, layout.root, *QUICK))
    assert len(given[0].comparisons.joined(known)) == 9


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
