"""Logs as they are in life: events sent twice, late scores, changed prices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from pipeline import ingest
from pipeline.compose import load_config
from pipeline.feedback_log import at_pool_prices, price_changes, read_feedback
from pipeline.layout import RunLayout
from pipeline.provenance import read_provenance
from policies.errors import InputError
from policies.pool import ModelSpec

SPECS = {"a": ModelSpec("a", 1.0, 2.0), "b": ModelSpec("b", 0.5, 0.5), "free": ModelSpec("free", 0.0, 0.0)}
START = datetime(2026, 1, 1, tzinfo=UTC)


def make_log(n=6, model="a", factor=1.0, noise=0.0, seed=0):
    """Events of one model; ``factor`` (n,) multiplies what the tokens cost at the pool's prices."""
    rng = np.random.default_rng(seed)
    tokens, answer = rng.integers(10, 900, n), rng.integers(10, 900, n)
    spec = SPECS[model]
    listed = np.array([spec.cost_usd(t, c) for t, c in zip(tokens, answer)])
    return pl.DataFrame(
        {
            "event_id": [f"{model}{i}" for i in range(n)],
            "timestamp": [START + timedelta(minutes=i) for i in range(n)],
            "prompt_id": [f"p{i}" for i in range(n)],
            "w_quality": [0.5] * n,
            "w_cost": [0.5] * n,
            "eligible": [["a", "b"]] * n,
            "model": [model] * n,
            "propensity": [0.5] * n,
            "score": rng.random(n).round(3),
            "cost_usd": listed * factor * np.exp(noise * rng.normal(size=n)),
            "prompt_tokens": tokens,
            "completion_tokens": answer,
            "policy_version": ["v"] * n,
        }
    )


def stored(tmp_path, *logs):
    for number, log in enumerate(logs):
        log.write_parquet(tmp_path / f"{number}.parquet")
    return str(tmp_path)


def test_exact_repeats_are_dropped_and_counted_over_files(tmp_path):
    log = make_log()
    read, repeated = read_feedback(stored(tmp_path, log, log.head(2), log.head(1)))
    assert repeated == 3
    assert read["event_id"].to_list() == log["event_id"].to_list()


def test_log_without_repeats_stays_as_it_is(tmp_path):
    log = make_log()
    read, repeated = read_feedback(stored(tmp_path, log))
    assert repeated == 0
    assert read["cost_usd"].to_list() == log["cost_usd"].to_list()


def test_score_that_came_later_completes_its_event(tmp_path):
    log = make_log()
    early = log.with_columns(score=pl.lit(None, pl.Float64))
    read, repeated = read_feedback(stored(tmp_path, early, log.tail(2)))
    assert repeated == 2
    assert read["score"].to_list() == [None] * 4 + log["score"].to_list()[4:]


def test_order_of_the_eligible_models_says_nothing(tmp_path):
    log = make_log(1)
    turned = log.with_columns(eligible=pl.lit(["b", "a"]))
    assert read_feedback(stored(tmp_path, log, turned))[1] == 1


def test_conflicting_rows_of_an_event_are_named_with_both_values(tmp_path):
    log = make_log(3).with_columns(score=pl.lit(0.25))
    other = log.slice(2, 1).with_columns(score=pl.lit(0.75))
    with pytest.raises(
        InputError,
        match=r"1\.parquet: row 1, column 'score': event 'a2' has 0\.75, but 0\.25 in .*0\.parquet: row 3; 1 events",
    ):
        read_feedback(stored(tmp_path, log, other))


def test_changed_price_is_found_with_its_size():
    n = 200
    doubled = np.where(np.arange(n) < 80, 2.0, 1.0)
    (change,) = price_changes(make_log(n, factor=doubled), SPECS)
    assert (change.model, change.furthest, change.last) == ("a", pytest.approx(2.0), pytest.approx(1.0))


@pytest.mark.parametrize("seed", range(5))
def test_noisy_token_counts_are_no_change_of_price(seed):
    logs = [make_log(300, model, noise=0.5, seed=seed) for model in ("a", "b", "free")]
    assert price_changes(pl.concat(logs), SPECS) == []


def test_few_events_and_missing_tokens_cannot_tell():
    assert price_changes(make_log(30, factor=np.linspace(1, 9, 30)), SPECS) == []
    unknown = make_log(200, factor=np.linspace(1, 9, 200)).with_columns(
        completion_tokens=pl.lit(None, pl.Int64)
    )
    assert price_changes(unknown, SPECS) == []


def test_costs_at_the_pools_prices_leave_missing_ones_missing():
    log = make_log(4, factor=3.0).with_columns(
        cost_usd=pl.when(pl.int_range(4) == 0).then(None).otherwise("cost_usd"),
        completion_tokens=pl.when(pl.int_range(4) == 1).then(None).otherwise("completion_tokens"),
    )
    priced, count = at_pool_prices(log, SPECS)
    assert count == 2
    assert priced["cost_usd"][0] is None
    assert priced["cost_usd"][1] == log["cost_usd"][1]
    assert priced["cost_usd"].to_list()[2:] == pytest.approx((log["cost_usd"] / 3.0).to_list()[2:])


def test_events_that_are_exported_while_ingest_reads_are_left_for_the_next(tmp_path, monkeypatch):
    """An endpoint exports a prompt before the events that name it; this one does so between the two reads."""
    log = make_log(60)
    asked = pl.DataFrame({"prompt_id": log["prompt_id"], "prompt": [f"question {i}" for i in range(60)]})

    def export(n):
        asked.head(n).write_parquet(tmp_path / "prompts.parquet")
        log.head(n).write_parquet(tmp_path / "log.parquet")

    export(50)

    def exporting_after(read):
        def wrapped(*arguments, **options):
            found = read(*arguments, **options)
            export(60)
            return found

        return wrapped

    for name in ("read_log", "_read"):
        monkeypatch.setattr(ingest, name, exporting_after(getattr(ingest, name)))
    (tmp_path / "pool.yaml").write_text(
        "prices:\n  a: {input: 1.0, output: 2.0}\n  b: {input: 1.0, output: 2.0}\n"
    )
    config = load_config(
        [
            "data=log", f"data.prompts={tmp_path / 'prompts.parquet'}", f"data.log={tmp_path / 'log.parquet'}",
            f"pool={tmp_path / 'pool.yaml'}", f"run.dir={tmp_path / 'run'}",
        ]
    )  # fmt: skip
    ingest.run(config)
    layout = RunLayout.of(config)
    assert (pl.read_parquet(layout.feedback).height, pl.read_parquet(layout.prompts).height) == (50, 60)


@pytest.mark.parametrize(("log_costs", "ratio"), [("logged", 2.0), ("pool_prices", 1.0)])
def test_ingest_says_what_it_found_and_does_what_it_is_told(tmp_path, log_costs, ratio):
    n = 200
    log = make_log(n, factor=np.where(np.arange(n) < 100, 2.0, 1.0))
    folder = tmp_path / "log"
    folder.mkdir()
    stored(folder, log, log.head(3))
    pl.DataFrame(
        {"prompt_id": log["prompt_id"], "prompt": [f"question {i}" for i in range(n)]}
    ).write_parquet(tmp_path / "prompts.parquet")
    (tmp_path / "pool.yaml").write_text(
        "prices:\n  a: {input: 1.0, output: 2.0}\n  b: {input: 1.0, output: 2.0}\n"
    )
    config = load_config(
        [
            "data=log", f"data.prompts={tmp_path / 'prompts.parquet'}", f"data.log={folder}",
            f"pool={tmp_path / 'pool.yaml'}", f"run.dir={tmp_path / 'run'}", f"data.log_costs={log_costs}",
        ]
    )  # fmt: skip
    ingest.run(config)
    layout = RunLayout.of(config)
    kept = pl.read_parquet(layout.feedback)
    assert kept.height == n
    assert kept["cost_usd"][0] / log["cost_usd"][0] * 2.0 == pytest.approx(ratio)
    provenance = read_provenance(layout)
    assert provenance is not None
    assert "3 repeated rows of events dropped" in provenance.notes
    assert any("a 2.00 to 1.00 times the pool's price" in note for note in provenance.notes) == (ratio == 2.0)
