from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from pipeline import evaluate
from pipeline.layout import RunLayout
from pipeline.training import content_hash
from policies.errors import InputError
from policies.preference import dial_grid
from tests.pipeline.evaluation_case import KindPolicy, bundle, config, outcomes, prepared_run, write_inputs


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    write_inputs(folder, outcomes(4, 9))
    data = {"train": outcomes(300, 0), "validation": outcomes(80, 1), "test": outcomes(120, 2)}
    data["ood"] = outcomes(60, 3, ("new code", "new prose"))
    settings = config(folder)
    return data, settings, evaluate.measure(bundle(KindPolicy(), data["train"]), data, data, settings)


def plain_yardstick(train, test, policy):
    """Score greedy decisions from the definitions alone, one prompt at a time."""
    tau = np.quantile(train.costs_usd, 0.95)
    n, k = test.scores.shape
    totals: dict[str, list[float]] = {"router": [], "best": [], "oracle": []}
    points = []
    for w in dial_grid():
        p = policy.action_probabilities(test.embeddings, np.tile([1 - w, w], (n, 1)))
        fixed = int(
            np.argmax(
                [
                    np.mean((1 - w) * train.scores[:, j] - w * np.minimum(train.costs_usd[:, j] / tau, 1))
                    for j in range(k)
                ]
            )
        )
        rows: dict[str, list[float]] = {name: [] for name in totals}
        cost, quality = [], []
        for i in range(n):
            r = [(1 - w) * test.scores[i, j] - w * min(test.costs_usd[i, j] / tau, 1.0) for j in range(k)]
            pick = int(np.argmax(p[i]))
            rows["router"].append(r[pick])
            rows["best"].append(r[fixed])
            rows["oracle"].append(max(r))
            cost.append(test.costs_usd[i, pick])
            quality.append(test.scores[i, pick])
        for name in totals:
            totals[name].append(float(np.mean(rows[name])))
        points.append((np.mean(cost), np.mean(quality)))
    return {name: float(np.mean(v)) for name, v in totals.items()}, np.array(points), tau


def highest_mix(points, cost):
    """Return the best quality of a coin flip between two points, or one point, at a mean cost up to ``cost``."""
    best = max((q for c, q in points if c <= cost), default=-np.inf)
    for c0, q0 in points:
        for c1, q1 in points:
            if c0 <= cost < c1:
                best = max(best, q0 + (q1 - q0) * (cost - c0) / (c1 - c0))
    return best


def test_rewards_agree_with_the_definitions(case):
    data, _, metrics = case
    for split in ("test", "ood"):
        expected, points, tau = plain_yardstick(data["train"], data[split], KindPolicy())
        rows = metrics["splits"][split]["routers"]
        assert metrics["tau_usd"] == pytest.approx(tau, rel=1e-9)
        assert rows["policy"]["mean_reward"] == pytest.approx(expected["router"], abs=1e-9)
        assert rows["best_single"]["mean_reward"] == pytest.approx(expected["best"], abs=1e-9)
        assert rows["oracle"]["mean_reward"] == pytest.approx(expected["oracle"], abs=1e-9)
        assert rows["policy"]["cost_usd"] == pytest.approx(points[:, 0], rel=1e-9)
        assert rows["policy"]["quality"] == pytest.approx(points[:, 1], abs=1e-9)


def test_gap_closed_follows_from_the_rewards(case):
    data, _, metrics = case
    expected, _, _ = plain_yardstick(data["train"], data["test"], KindPolicy())
    gap = (expected["router"] - expected["best"]) / (expected["oracle"] - expected["best"])
    assert metrics["splits"]["test"]["routers"]["policy"]["gap_closed"] == pytest.approx(gap, abs=1e-9)


def test_aiq_agrees_with_brute_force(case):
    data, _, metrics = case
    _, points, _ = plain_yardstick(data["train"], data["test"], KindPolicy())
    single = np.stack([data["test"].costs_usd.mean(0), data["test"].scores.mean(0)], axis=1)
    points = np.vstack([points, single[single[:, 0].argmin()]])
    grid = np.linspace(single[:, 0].min(), single[:, 0].max(), 4001)[::40]
    expected = np.mean([highest_mix(points, c) for c in grid])
    # Every fortieth point of the grid: the two means differ by the grid's spacing.
    assert metrics["splits"]["test"]["routers"]["policy"]["aiq"] == pytest.approx(expected, abs=2e-3)


def test_no_router_beats_the_oracle_at_any_setting(case):
    _, _, metrics = case
    for split in metrics["splits"].values():
        bound = np.array(split["routers"]["oracle"]["rewards"])
        for row in split["routers"].values():
            assert (np.array(row["rewards"]) <= bound + 1e-9).all()


def test_best_single_gains_nothing_over_itself(case):
    _, _, metrics = case
    row = metrics["splits"]["test"]["routers"]["best_single"]
    assert row["gap_closed"] == 0.0
    assert row["gain_over_best_single"] == 0.0


def test_random_is_scored_in_expectation(case):
    data, _, metrics = case
    quality = metrics["splits"]["test"]["routers"]["random"]["quality"]
    assert quality == pytest.approx([data["test"].scores.mean()] * 21, abs=1e-9)


def test_settings_are_chosen_on_validation(case):
    data, _, metrics = case
    _, points, _ = plain_yardstick(data["train"], data["validation"], KindPolicy())
    chosen = metrics["splits"]["test"]["routers"]["policy"]["chosen"]
    assert chosen["perf_gain"]["w_cost"] == dial_grid()[points[:, 1].argmax()]


def test_without_validation_prompts_nothing_is_chosen(case):
    data, settings, _ = case
    rest = {name: matrix for name, matrix in data.items() if name != "validation"}
    row = evaluate.measure(bundle(KindPolicy(), data["train"]), rest, rest, settings)["splits"]["test"]
    assert row["routers"]["policy"]["chosen"] is None
    assert row["routers"]["policy"]["perf_gain"] is None


def test_gain_interval_holds_the_gain(case):
    _, _, metrics = case
    row = metrics["splits"]["test"]["routers"]["policy"]
    low, high = row["intervals"]["gain_over_best_single"]
    assert low < row["gain_over_best_single"] < high


def test_task_gains_average_to_the_gain(case):
    _, _, metrics = case
    split = metrics["splits"]["test"]
    total = sum(t["n_prompts"] * t["gain_over_best_single"] for t in split["tasks"].values())
    assert total / split["n_prompts"] == pytest.approx(split["routers"]["policy"]["gain_over_best_single"])


def test_a_task_with_one_prompt_has_a_gain_and_no_interval(case):
    data, settings, _ = case
    tasks = data["test"].tasks.copy().astype("<U10")
    tasks[0] = "lonely"
    changed = {**data, "test": replace(data["test"], tasks=tasks)}
    metrics = evaluate.measure(bundle(KindPolicy(), data["train"]), changed, changed, settings)
    task = metrics["splits"]["test"]["tasks"]["lonely"]
    assert task["n_prompts"] == 1
    assert task["gain_interval"] is None


def test_held_out_tasks_may_be_absent(case):
    data, settings, metrics = case
    rest = {name: matrix for name, matrix in data.items() if name != "ood"}
    without = evaluate.measure(bundle(KindPolicy(), data["train"]), rest, rest, settings)
    assert set(without["splits"]) == {"test"}
    assert without["splits"]["test"] == metrics["splits"]["test"]


def test_a_policy_that_ignores_prompt_and_dial_is_flagged(case):
    data, settings, metrics = case
    from policies.constants import AlwaysPolicy

    fixed = AlwaysPolicy(data["train"].pool.models, "dear")
    stuck = evaluate.measure(bundle(fixed, data["train"]), data, data, settings)
    flags = stuck["splits"]["test"]["routers"]["policy"]["flags"]
    assert [flags[name] for name in ("collapsed", "prompt_blind", "dead_dial")] == [True] * 3
    healthy = metrics["splits"]["test"]["routers"]["policy"]["flags"]
    assert [healthy[name] for name in ("collapsed", "prompt_blind")] == [False] * 2


@pytest.mark.parametrize(
    ("rows", "state"),
    [("train", "ok"), ("validation", "alarm"), (None, None)],
    ids=["same", "other", "unknown"],
)
def test_a_policy_trained_on_other_rows_than_the_runs_is_told(case, rows, state):
    data, settings, _ = case
    notes = {} if rows is None else {"train_sha256": content_hash(data[rows])}
    made = replace(bundle(KindPolicy(), data["train"]), notes=notes)
    states = {c["name"]: c["state"] for c in evaluate.measure(made, data, data, settings)["health"]}
    assert states.get("other_training") == state


def test_a_dial_that_raises_cost_is_flagged(case):
    data, settings, _ = case

    class Backwards(KindPolicy):
        def action_probabilities(self, embeddings, preferences, eligible=None, *, prompt_tokens=None):
            return super().action_probabilities(embeddings, preferences[:, ::-1])

    metrics = evaluate.measure(bundle(Backwards(), data["train"]), data, data, settings)
    assert metrics["splits"]["test"]["routers"]["policy"]["flags"]["cost_rises"]


def not_a_number(text):
    raise AssertionError(f"{text} is not JSON")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    data = outcomes(400, 5)
    scores = data.scores.copy()
    scores[:40, 0] = np.nan  # the dear model never answered the first forty prompts
    settings = prepared_run(folder, replace(data, scores=scores))
    return settings, evaluate.run(settings)


def test_metrics_file_is_strict_sorted_json(run_folder):
    settings, metrics = run_folder
    text = RunLayout.of(settings).metrics.read_text()
    read = json.loads(text, parse_constant=not_a_number)
    assert read == metrics
    assert text == json.dumps(read, indent=1, sort_keys=True) + "\n"


def test_the_same_run_gives_the_same_bytes(run_folder):
    settings, _ = run_folder
    layout = RunLayout.of(settings)
    before = [path.read_bytes() for path in (layout.metrics, layout.report, layout.picture)]
    evaluate.run(settings)
    assert [path.read_bytes() for path in (layout.metrics, layout.report, layout.picture)] == before


def test_incomplete_prompts_are_dropped_and_counted(run_folder):
    _, metrics = run_folder
    splits = metrics["data"]["splits"].values()
    assert sum(s["n_dropped_incomplete"] for s in splits) == 40
    assert sum(s["n_complete"] for s in splits) == 360
    assert metrics["splits"]["test"]["n_prompts"] == metrics["data"]["splits"]["test"]["n_complete"]
    assert metrics["data"]["observed_share"]["dear"] == pytest.approx(0.9)


def test_written_tables_reproduce_the_policy_s_rewards(run_folder):
    settings, metrics = run_folder
    folder = RunLayout.of(settings).outcomes.parent
    train, test, decisions = (
        pl.read_parquet(folder / f"{name}.parquet")
        for name in ("train_outcomes", "test_outcomes", "test_decisions")
    )
    tau = float(np.quantile(train["cost"].to_numpy(), 0.95))
    joined = decisions.join(test, on=["prompt_id", "model"], how="left")
    w, cost = pl.col("w_cost"), (pl.col("cost") / tau).clip(upper_bound=1.0)
    reward = joined.select(((1 - w) * pl.col("score") - w * cost).mean()).item()
    assert joined.height == 21 * metrics["splits"]["test"]["n_prompts"]
    assert reward == pytest.approx(metrics["splits"]["test"]["routers"]["policy"]["mean_reward"], abs=1e-9)
    prompts = pl.read_parquet(folder / "test_prompts.parquet")
    assert set(prompts["prompt_id"]) == set(test["prompt_id"])


def test_held_out_tasks_are_reported_apart(tmp_path):
    settings = prepared_run(tmp_path, outcomes(300, 6), "data.ood_tasks=[prose]")
    metrics = evaluate.run(settings)
    assert set(metrics["splits"]["ood"]["tasks"]) == {"prose"}
    assert set(metrics["splits"]["test"]["tasks"]) == {"code"}
    assert metrics["data"]["ood_tasks"] == ["prose"]


def test_no_complete_prompt_is_bad_input(tmp_path):
    data = outcomes(200, 7)
    scores = data.scores.copy()
    scores[np.arange(200), np.arange(200) % 3] = np.nan
    complete = replace(data, scores=np.where(np.isnan(scores), 0.0, scores))
    settings = prepared_run(tmp_path, complete)
    gaps = pl.read_parquet(RunLayout.of(settings).outcomes)
    keep = {(p, data.pool.models[i % 3]) for i, p in enumerate(data.prompt_ids)}
    mask = [(p, m) not in keep for p, m in zip(gaps["prompt_id"], gaps["model"])]
    gaps.filter(pl.Series(mask)).write_parquet(RunLayout.of(settings).outcomes)
    with pytest.raises(InputError, match="split 'train' none was answered by every model"):
        evaluate.run(settings)


def test_evaluating_before_training_names_the_stage(tmp_path):
    write_inputs(tmp_path, outcomes(200, 8))
    with pytest.raises(InputError, match="pipeline train"):
        evaluate.run(config(tmp_path))
