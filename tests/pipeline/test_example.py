"""The embedded example: determinism, ranges, prices, and that routing is worth it in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from pipeline.example import (
    EXAMPLE_MODELS,
    FAMILIES,
    ExampleTables,
    SimulatedModel,
    generate_example,
    write_prompts,
)
from policies.errors import InputError

POOL_FILE = Path(__file__).parents[2] / "conf" / "pools" / "example.yaml"
N_PROMPTS = 3000
SEED = 0


@pytest.fixture(scope="module")
def prices() -> dict[str, tuple[float, float]]:
    models = yaml.safe_load(POOL_FILE.read_text())["models"]
    return {
        m: (v["input_price_per_mtok_usd"], v["output_price_per_mtok_usd"])
        for m, v in models.items()
        if v.get("kind") != "tool"
    }


@pytest.fixture(scope="module")
def example(prices: dict[str, tuple[float, float]]) -> ExampleTables:
    return generate_example(N_PROMPTS, SEED, prices)


@pytest.fixture(scope="module")
def score_by_family(example: ExampleTables) -> pl.DataFrame:
    return (
        example.outcomes.join(example.prompts, on="prompt_id")
        .group_by("task", "model")
        .agg(pl.col("score").mean())
        .sort("task", "model")
    )


def test_same_seed_gives_same_bytes(prices, example, tmp_path):
    again = generate_example(N_PROMPTS, SEED, prices)
    for name, one, two in (
        ("prompts", example.prompts, again.prompts),
        ("outcomes", example.outcomes, again.outcomes),
    ):
        one.write_parquet(tmp_path / f"{name}_1.parquet")
        two.write_parquet(tmp_path / f"{name}_2.parquet")
        assert (tmp_path / f"{name}_1.parquet").read_bytes() == (tmp_path / f"{name}_2.parquet").read_bytes()


def test_another_seed_gives_other_prompts(prices, example):
    other = generate_example(200, SEED + 1, prices)
    assert not set(other.prompts["prompt"]) & set(example.prompts["prompt"])


def test_fewer_prompts_are_the_first_of_more(prices, example):
    few = generate_example(100, SEED, prices)
    assert few.prompts.equals(example.prompts.head(100))
    assert few.outcomes.equals(example.outcomes.head(100 * len(prices)))


def test_families_are_at_least_twelve_and_equally_frequent(example):
    counts = example.prompts["task"].value_counts()["count"]
    assert len(counts) == len(FAMILIES) >= 12
    assert counts.max() - counts.min() <= 1


def test_prompts_are_nearly_unique(example):
    assert example.prompts["prompt"].n_unique() > 0.98 * N_PROMPTS
    assert example.prompts["prompt_id"].n_unique() == N_PROMPTS


def test_no_template_field_is_left_open(example):
    """`{name}` is legitimate only inside quoted JSON or code, where braces never hold one bare word."""
    assert example.prompts.filter(pl.col("prompt").str.contains(r"\{[a-z_]{1,8}\}")).is_empty()


def test_python_prompts_are_valid_programs(example):
    snippets = example.prompts["prompt"].str.extract(r"(?s)```python\n(.*)\n```").drop_nulls()
    assert len(snippets) > 100
    for code in snippets:
        compile(code, "prompt", "exec")


def test_difficulty_is_a_spread_within_unit_interval():
    difficulty = np.array([p.difficulty for p in write_prompts(N_PROMPTS, SEED)])
    assert difficulty.min() >= 0.0
    assert difficulty.max() <= 1.0
    assert difficulty.std() > 0.15


def test_outcomes_hold_every_pair_once_and_stay_in_range(example, prices):
    outcomes = example.outcomes
    assert outcomes.height == N_PROMPTS * len(prices)
    assert outcomes.select("prompt_id", "model").is_unique().all()
    assert outcomes["score"].drop_nulls().is_between(0.0, 1.0).all()
    assert not outcomes["score"].is_nan().any()
    for column in ("cost_usd", "prompt_tokens", "completion_tokens", "latency_s"):
        assert outcomes[column].null_count() == 0
        assert (outcomes[column] > 0).all()


def test_about_one_score_in_a_hundred_is_missing(example):
    assert 0.005 < example.outcomes["score"].null_count() / example.outcomes.height < 0.015


def test_cost_is_tokens_times_price_and_tokens_are_characters_over_four(example, prices):
    rows = example.outcomes.join(example.prompts, on="prompt_id")
    for model, n_in, n_out, cost, prompt in rows.select(
        "model", "prompt_tokens", "completion_tokens", "cost_usd", "prompt"
    ).iter_rows():
        assert n_in == -(-len(prompt) // 4)
        assert cost == (n_in * prices[model][0] + n_out * prices[model][1]) / 1e6


def test_only_writing_families_are_graded_between_wrong_and_right(example):
    between = example.outcomes.join(example.prompts, on="prompt_id").filter(
        ~pl.col("score").is_in([0.0, 1.0]) & pl.col("score").is_not_null()
    )
    assert set(between["task"]) == {"translation", "open_writing"}


def test_pool_file_prices_every_simulated_model_over_a_fifty_fold_span(prices):
    assert set(prices) == set(EXAMPLE_MODELS)
    outputs = [pair[1] for pair in prices.values()]
    assert max(outputs) / min(outputs) == pytest.approx(50.0)


def test_specialists_beat_the_best_model_on_their_family(example, score_by_family):
    winners = set(score_by_family.sort("score").group_by("task").last()["model"])
    assert len(winners) >= 4
    overall = example.outcomes.group_by("model").agg(pl.col("score").mean()).sort("score")["model"][-1]
    assert winners - {overall, "summit-pro"}


def test_hard_prompts_are_failed_more_often(example):
    difficulty = pl.DataFrame(
        [(p.prompt_id, p.difficulty) for p in write_prompts(N_PROMPTS, SEED)],
        schema=["prompt_id", "difficulty"],
        orient="row",
    )
    rows = example.outcomes.join(difficulty, on="prompt_id")
    easy = rows.filter(pl.col("difficulty") < 0.3)["score"].mean()
    hard = rows.filter(pl.col("difficulty") > 0.7)["score"].mean()
    assert easy > hard + 0.3


def test_routing_is_worth_it_but_families_do_not_tell_all(example, score_by_family):
    best_single = example.outcomes.group_by("model").agg(pl.col("score").mean())["score"].max()
    by_family = score_by_family.group_by("task").agg(pl.col("score").max())["score"].mean()
    oracle = example.outcomes.group_by("prompt_id").agg(pl.col("score").max())["score"].mean()
    assert best_single + 0.04 < by_family < oracle - 0.08


def test_one_more_arm_leaves_the_others_as_they_are(prices, example):
    calculator = SimulatedModel(skill=-1.0, skills={"arithmetic": 1.2}, verbosity=0.1)
    more = generate_example(
        N_PROMPTS, SEED, {"calculator": (0.01, 0.01), **prices}, {**EXAMPLE_MODELS, "calculator": calculator}
    )
    others = more.outcomes.filter(pl.col("model") != "calculator")
    assert others.equals(example.outcomes)


@pytest.mark.parametrize(
    ("n_prompts", "seed", "pool", "message"),
    [
        (0, 0, {"swift-8b": (0.1, 0.2)}, "n_prompts: 0"),
        (5, -1, {"swift-8b": (0.1, 0.2)}, "seed: -1"),
        (5, 0, {}, "no models"),
        (5, 0, {"unheard-of": (0.1, 0.2)}, "'unheard-of'"),
        (5, 0, {"swift-8b": (-0.1, 0.2)}, r"prices\['swift-8b'\]"),
        (5, 0, {"swift-8b": (0.1, float("nan"))}, r"prices\['swift-8b'\]"),
    ],
)
def test_bad_arguments_are_named(n_prompts, seed, pool, message):
    with pytest.raises(InputError, match=message):
        generate_example(n_prompts, seed, pool)
