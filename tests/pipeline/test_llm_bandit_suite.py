"""The suite of LLM Bandit's checks: its arithmetic, and one small suite from tables to report."""

import json
from html import escape

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import evaluate, ingest
from pipeline.__main__ import main
from pipeline.comparisons import RunComparisons
from pipeline.compose import load_config, record_config
from pipeline.embedding_table import EmbeddingTable, write_embeddings
from pipeline.layout import RunLayout
from pipeline.llm_bandit_suite.bench import Bench, Figures, columns_of
from pipeline.llm_bandit_suite.candidate_sets import draw_sets
from pipeline.llm_bandit_suite.context import llm_bandit
from pipeline.llm_bandit_suite.decisions import dial_choices, predictions, translated
from pipeline.llm_bandit_suite.held_out_preferences import ratios, remaining
from pipeline.llm_bandit_suite.query_costs import cost_terms_with, tolerated
from pipeline.llm_bandit_suite.router_comparison import cost_at_quality
from pipeline.llm_bandit_suite.trainings import Trained, Training, _write, train_all
from pipeline.llm_bandit_suite.unseen_models import Draw, difference, holdouts
from policies.base import greedy
from policies.bundle import EncoderIdentity
from policies.constants import BestSinglePolicy
from policies.datasets import OutcomeMatrix
from policies.errors import InputError
from policies.metrics import score_router
from policies.pool import ModelPool, ModelSpec
from policies.preference import dial_grid, preferences_from_w_cost
from tests.pipeline.evaluation_case import outcomes
from tests.policies.leftovers_case import gone_process, left_by
from tests.policies.llm_bandit_case import DIMENSION, TAU_USD, names, random_router, world

MODELS = 6
POOL = ModelPool("tiny", tuple(ModelSpec(name, 1.0, 4.0) for name in names(MODELS)))
ENCODER = EncoderIdentity("planted", "0" * 64, "torch-fp32", DIMENSION)
TINY = (
    "policy=llm_bandit",
    "policy.identity.members=1",
    "policy.identity.identity_dim=4",
    "policy.identity.batch_size=64",
    "policy.identity.lr=1e-2",
    "policy.identity.folds=2",
    "policy.simulated_online.epochs=8",
    "policy.pretrain.steps=40",
    "policy.pretrain.batch_size=256",
    "policy.ppo.iterations=0",
    "evaluate.llm_bandit.unseen_models.newcomers=1",
    "evaluate.llm_bandit.unseen_models.holdouts=1",
    "evaluate.llm_bandit.unseen_models.prompts=[10,50]",
    "evaluate.llm_bandit.unseen_models.draws=2",
    "evaluate.llm_bandit.query_costs.noise=[1.0]",
    "evaluate.llm_bandit.query_costs.bias=[4.0]",
    "evaluate.llm_bandit.query_costs.draws=1",
    "evaluate.llm_bandit.candidate_sets.sets=1",
    "evaluate.llm_bandit.routers.names=[knn]",
)


def matrix(n=80, seed=5):
    rows, _ = world(n=n, n_models=MODELS, seed=seed)
    return OutcomeMatrix(
        prompt_ids=rows.prompt_ids,
        tasks=np.full(n, ""),
        pool=POOL,
        embeddings=rows.embeddings,
        prompt_tokens=rows.prompt_tokens,
        scores=rows.scores,
        costs_usd=rows.costs_usd,
        completion_tokens=np.full(rows.scores.shape, np.nan),
    )


@pytest.mark.parametrize("head", ["arm", "identity"])
def test_decisions_over_the_dial_are_the_policy_s_own(head):
    policy, data = random_router(head=head), matrix()
    w_cost = np.array([0.0, 0.3, 0.9])
    for w, chosen in zip(w_cost, dial_choices(policy, data, w_cost), strict=True):
        p = policy.action_probabilities(
            data.embeddings, preferences_from_w_cost(float(w), len(data)), prompt_tokens=data.prompt_tokens
        )
        np.testing.assert_array_equal(chosen, p.argmax(axis=1))


def test_lengths_without_an_error_give_the_predicted_costs():
    policy, data = random_router(), matrix()
    told = cost_terms_with(policy, data, np.zeros((1, 1)))
    np.testing.assert_allclose(told, predictions(policy, data).cost_terms)
    assert (cost_terms_with(policy, data, np.full((1, 1), 1.0)) >= told).all()


def test_a_bench_counts_as_the_report_does():
    data = matrix(300)
    bench = Bench.of("test", data, data, TAU_USD)
    chosen = np.random.default_rng(0).integers(MODELS, size=(len(bench.w_cost), len(data)))
    figures = bench.figures(chosen)
    score = score_router(
        greedy(np.eye(MODELS)[chosen].reshape(-1, MODELS)).reshape(*chosen.shape, MODELS),
        data.scores,
        data.costs_usd,
        w_cost=bench.w_cost,
        tau_usd=TAU_USD,
        best_single=bench.best_single,
    )
    assert figures.aiq == pytest.approx(score.aiq)
    assert figures.mean_reward == pytest.approx(score.mean_reward)
    assert figures.gap_closed == pytest.approx(score.gap_closed)


def test_the_best_single_model_closes_no_gap():
    data = matrix(300)
    bench = Bench.of("test", data, data, TAU_USD)
    fixed = BestSinglePolicy.fit(POOL.models, data.scores, data.costs_usd, TAU_USD)
    p = [
        fixed.action_probabilities(data.embeddings, preferences_from_w_cost(float(w), len(data))).argmax(
            axis=1
        )
        for w in bench.w_cost
    ]
    assert bench.figures(np.stack(p)).gap_closed == pytest.approx(0.0, abs=1e-6)


def test_columns_keep_scores_and_prices_together():
    part = columns_of(matrix(), (4, 1))
    assert part.pool.models == ("m4", "m1")
    np.testing.assert_array_equal(part.scores, matrix().scores[:, [4, 1]])


@given(st.floats(1e-4, 1.0), st.floats(1e-4, 1.0))
def test_a_translated_dial_means_the_same_exchange(here, there):
    w = dial_grid()[:-1]
    moved = translated(w, here, there)
    np.testing.assert_allclose(moved / (1 - moved) / there, w / (1 - w) / here, rtol=1e-9)
    assert translated(np.array([1.0]), here, there)[0] == 1.0


@given(st.integers(3, 30), st.integers(1, 5), st.integers(1, 6), st.integers(0, 50))
def test_held_out_models_are_distinct_and_leave_some(n_models, newcomers, count, seed):
    if n_models - newcomers < 2:
        with pytest.raises(InputError, match=f"newcomers={newcomers}: the pool has {n_models} models"):
            holdouts(n_models, newcomers, count, seed)
        return
    sets = holdouts(n_models, newcomers, count, seed)
    assert [len(set(one)) for one in sets] == [newcomers] * count
    first = [j for one in sets[: n_models // newcomers] for j in one]
    assert len(set(first)) == len(first)


def test_random_sets_have_the_sizes_asked_for():
    sizes = [len(one) for one in draw_sets(8, 2, 200, seed=0)]
    assert (min(sizes), max(sizes)) == (2, 8)
    assert draw_sets(8, 2, 3, seed=0) == draw_sets(8, 2, 5, seed=0)[:3]


def test_what_remains_of_the_preferences():
    assert remaining((0.0, 2.0), [(1.5, 2.0), (0.0, 0.5)]) == [(0.5, 1.5)]
    assert remaining((0.0, 2.0), [(0.5, 1.0)]) == [(0.0, 0.5), (1.0, 2.0)]
    np.testing.assert_allclose(ratios([(0.0, 0.5), (1.5, 2.0)], 0.25), [0, 0.25, 0.5, 1.5, 1.75, 2.0])


def test_cost_at_equal_quality_is_read_off_the_hull():
    costs, qualities = np.array([1.0, 3.0, 2.0]), np.array([0.2, 0.6, 0.1])
    assert cost_at_quality(costs, qualities, 0.4) == pytest.approx(2.0)
    assert cost_at_quality(costs, qualities, 0.7) is None


def test_errors_are_tolerated_as_long_as_the_reward_holds():
    assert tolerated({"small": 0.31, "large": 0.29}, 0.3) == ["small"]


def test_a_strategy_is_compared_with_random_within_each_set():
    def draws(selection, holdout, values):
        return [Draw(holdout, selection, 10, d, "test", Figures(v, 0.0, 0.0)) for d, v in enumerate(values)]

    found = [
        *draws("random", 0, [0.5, 0.5]),
        *draws("random", 1, [0.9, 0.9]),
        *draws("stratified", 0, [0.6, 0.6]),
        *draws("stratified", 1, [0.8, 0.8]),
    ]
    gap, margin = difference(found, "stratified", 10, "test")
    assert gap == pytest.approx(0.0)
    assert margin == pytest.approx(0.0)


def test_a_kept_training_replaces_the_old_one_and_what_killed_ones_left(tmp_path):
    training = Training("one", load_config(TINY), (0, 1), None)
    killed = left_by(gone_process(), tmp_path / "one", folder=True)
    policy = BestSinglePolicy(("a", "b"), np.array([0.9, 0.4]), np.array([0.9, 0.1]))
    for tau_usd in (0.01, 0.02):
        _write(training, Trained(policy, tau_usd), {}, tmp_path)
        body = json.loads((tmp_path / "one" / "training.json").read_text())
        assert body["trained_with_tau_usd"] == tau_usd
    assert not killed.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_set_of_models_without_comparisons_is_trained_without(ray_session, tmp_path, capsys):
    """Models of a small set may never have been compared; the comparisons travel with the task."""
    train, validation = (outcomes(n, seed) for seed, n in enumerate((200, 60)))
    ids, models = train.prompt_ids[:40], train.pool.models
    table = pl.DataFrame({"prompt_id": ids, "model_a": models[0], "model_b": models[1], "winner": models[1]})
    compared = RunComparisons(tmp_path / "comparisons.parquet", table)
    config = load_config(TINY)
    trainings = [
        Training(name, config, columns, None, supervised="query")
        for name, columns in (("compared", (0, 1)), ("never", (1, 2)), ("again", (0, 1)))
    ]
    trained = train_all(trainings[:2], train, validation, tmp_path, compared)
    printed = capsys.readouterr().out
    assert "suite: never: no comparison is between two of its 2 models; trained without" in printed
    assert "compared:" not in printed
    trained |= train_all(trainings[1:], train, validation, tmp_path)
    one, other = (
        llm_bandit(trained[name]).predictions(train.embeddings[:20]) for name in ("compared", "again")
    )
    assert not np.allclose(one.scores, other.scores), "comparisons reach the training"
    labels = {name: json.loads((tmp_path / name / "training.json").read_text())["label"] for name in trained}
    assert labels["compared"]["comparisons_sha256"] == compared.sha256
    assert labels["never"]["comparisons_sha256"] is None


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run after ingest and embed."""
    folder = tmp_path_factory.mktemp("suite")
    rows, _ = world(n=700, n_models=MODELS)
    ids = rows.prompt_ids
    pl.DataFrame({"prompt_id": ids, "prompt": [f"prompt number {i}" for i in range(700)]}).write_parquet(
        folder / "prompts.parquet"
    )
    pl.DataFrame(
        {
            "prompt_id": np.repeat(ids, MODELS),
            "model": np.tile(names(MODELS), 700),
            "score": rows.scores.ravel(),
            "cost_usd": rows.costs_usd.ravel(),
        }
    ).write_parquet(folder / "outcomes.parquet")
    POOL.write(folder / "pool.yaml")
    overrides = [
        "data=tables",
        f"data.prompts={folder / 'prompts.parquet'}",
        f"data.outcomes={folder / 'outcomes.parquet'}",
        f"pool={folder / 'pool.yaml'}",
        f"run.dir={folder / 'run'}",
        *TINY,
    ]
    config = load_config(overrides)
    record_config(config, overrides)
    ingest.run(config)
    table = EmbeddingTable(ids.astype(object), ids.astype(object), rows.embeddings, ENCODER)
    write_embeddings(table, RunLayout.of(config).embeddings)
    return folder / "run"


def test_a_suite_runs_every_check_and_goes_on_where_it_was(ray_session, run_dir, capsys):
    before = (run_dir / "overrides.yaml").read_text()
    assert main(["evaluate", "suite=llm_bandit", f"run={run_dir}"]) == 0
    printed = capsys.readouterr().out
    folder = run_dir / "llm_bandit_suite"
    results = json.loads((folder / "suite.json").read_text())
    assert [one["name"] for one in results["checks"]] == [
        "unseen_models", "preferences", "query_costs", "candidate_sets", "routers",
    ]  # fmt: skip
    claims = [claim for one in results["checks"] for claim in one["claims"]]
    assert all(claim["goal"] in printed and claim["figure"] in printed for claim in claims)
    assert all(escape(claim["goal"]) in (folder / "suite.html").read_text() for claim in claims)
    # 50 answers of one more model of the same kind place it as well as a training.
    assert claims[0]["passed"]
    # One set of newcomers, three strategies of two sizes and two draws, and all prompts once.
    assert len(results["checks"][0]["figures"]["draws"]) == 3 * 2 * 2 + 1
    # The suite is a question put to the run: the next stage must not ask it again.
    assert (run_dir / "overrides.yaml").read_text() == before

    labels = sorted(folder.glob("policies/*/training.json"))
    written = [path.stat().st_mtime_ns for path in labels]
    again = evaluate.run(load_config(["suite=llm_bandit", f"run={run_dir}"]))
    assert again == results
    assert [path.stat().st_mtime_ns for path in labels] == written


def test_a_run_without_a_full_table_is_refused(run_dir, tmp_path):
    bare = tmp_path / "bare"
    (bare / "tables").mkdir(parents=True)
    (bare / "tables" / "feedback.parquet").write_bytes(b"")
    config = load_config(["suite=llm_bandit", f"run={run_dir}"])
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(bare)})})
    with pytest.raises(InputError, match="this run has a log alone"):
        evaluate.run(config)


def test_settings_of_the_suite_are_checked():
    with pytest.raises(InputError, match="goal_prompts is 50; allowed: one of prompts"):
        load_config(["evaluate.llm_bandit.unseen_models.prompts=[10]"])
    with pytest.raises(InputError, match="allowed: a part of trained"):
        load_config(["evaluate.llm_bandit.preferences.held_out=[[1.5,3.0]]"])
    for whole in ("[[0.0,2.0]]", "[[1.0,2.0],[0.0,1.0]]"):
        with pytest.raises(InputError, match=r"leaves nothing of trained \[0.0, 2.0\]"):
            load_config([f"evaluate.llm_bandit.preferences.held_out={whole}"])
    with pytest.raises(InputError, match="a suite gives no verdict"):
        load_config(["suite=llm_bandit", "evaluate.gate=true"])
