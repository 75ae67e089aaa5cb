"""Evaluation on feedback logs: which events count, what they say, and where they say nothing."""

from __future__ import annotations

import json
import re

import numpy as np
import polars as pl
import pytest

from pipeline import evaluate
from pipeline.__main__ import GATE_EXIT_CODES, main
from pipeline.compose import OVERRIDES_FILE, load_config
from pipeline.evaluate_log import decisions, evaluate_log
from pipeline.join import load_feedback
from pipeline.layout import RunLayout
from pipeline.simulate import simulate_log
from policies.constants import AlwaysPolicy
from policies.errors import InputError
from tests.pipeline.evaluation_case import POOL, outcomes
from tests.pipeline.log_case import SavedKindPolicy, log_run, registered, save_bundle, save_log, uniform_log

MODELS = POOL.models


@pytest.fixture(autouse=True, scope="module")
def kind_policy():
    with pytest.MonkeyPatch.context() as patch:
        registered(patch)
        yield


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """A run on a uniform log of 2,400 prompts; tests only read it."""
    return log_run(tmp_path_factory.mktemp("plain"), SavedKindPolicy())


def evaluated(config, *more):
    return evaluate_log(load_config([f"run={config.run.path}", *more]))


def row(section, label):
    rows = (
        section["verdict"]["overall"],
        *section["verdict"]["by_preference"],
        *section["verdict"]["by_segment"],
    )
    return next(r for r in rows if r["label"] == label)


def true_rewards(data, tau_usd, w):
    """Return the reward of each model on each prompt from the definition."""
    return (1 - w) * data.scores - w * np.minimum(data.costs_usd / tau_usd, 1.0)


def test_the_runs_own_log_is_judged_on_prompts_that_trained_nothing(plain_run):
    config = plain_run
    section = evaluated(config)
    splits = pl.read_parquet(RunLayout.of(config).splits)
    held_out = splits.filter(pl.col("split").is_in(["test", "ood"])).height
    assert section["log"]["n_events"] == held_out
    assert section["log"]["n_trained_on"] == 2400 - held_out
    assert section["verdict"]["overall"]["n_events"] == held_out


def test_estimates_cover_the_known_value(plain_run):
    config = plain_run
    section = evaluated(config, "evaluate.bootstrap_samples=300")
    data = outcomes(2400, 5)  # the table that the log was drawn from
    splits = pl.read_parquet(RunLayout.of(config).splits)
    test = data.rows(splits["split"].is_in(["test"]).to_numpy())
    decided = SavedKindPolicy().action_probabilities(test.embeddings, np.tile([1.0, 0.0], (len(test), 1)))
    truth = (decided * true_rewards(test, section["tau_usd"], 0.0)).sum(axis=1).mean()
    for name in ("IPS", "SNIPS", "DR", "SNDR", "Switch-DR", "clipped IPS"):
        low, high = section["candidate"]["estimates"][name]["intervals"][0]
        margin = high - low  # the test fails by chance about never
        assert low - margin < truth < high + margin
        assert low < section["candidate"]["estimates"][name]["values"][0] < high


def test_a_policy_that_knows_the_kind_ships_against_the_logging_policy(plain_run):
    config = plain_run
    section = evaluated(config, "evaluate.incumbent=logged")
    rewards = section["incumbent"]["estimates"]["mean reward"]["values"]
    log = pl.read_parquet(RunLayout.of(config).feedback).join(
        pl.read_parquet(RunLayout.of(config).splits).filter(pl.col("split") == "test"), on="prompt_id"
    )
    assert rewards[0] == pytest.approx(log["score"].mean())
    assert section["verdict"]["decision"] == "ship"
    difference = np.array(section["candidate"]["estimates"]["DR"]["values"]) - rewards
    assert row(section, "w_cost=0.5")["difference"] == pytest.approx(difference[10])


def test_best_single_comes_from_the_training_part_alone(tmp_path):
    def poisoned(log):
        # On the prompts that judge, "cheap" always answers right; training has not seen that.
        held_out = pl.Series(log["prompt_id"].is_in(list(judged)))
        return log.with_columns(
            score=pl.when(held_out & (pl.col("model") == "cheap")).then(1.0).otherwise("score")
        )

    first = log_run(tmp_path, SavedKindPolicy())
    splits = pl.read_parquet(RunLayout.of(first).splits)
    judged = set(splits.filter(pl.col("split") == "test")["prompt_id"])
    (tmp_path / "b").mkdir()
    section = evaluated(log_run(tmp_path / "b", SavedKindPolicy(), change=poisoned))
    assert section["incumbent"]["estimates"]["SNIPS"]["values"][0] < 0.85  # "cheap" would be 1.0


@pytest.mark.parametrize(
    ("incumbent", "label"), [("always:dear", "always dear"), ("artifact", "always dear")]
)
def test_incumbents_by_name_and_by_folder(plain_run, tmp_path, incumbent, label):
    config = plain_run
    if incumbent == "artifact":
        incumbent = str(
            save_bundle(tmp_path / "old" / "policy", AlwaysPolicy(MODELS, "dear"), outcomes(50, 1))
        )
    section = evaluated(config, f"evaluate.incumbent={incumbent}")
    assert section["incumbent"]["label"].startswith(label.partition(" ")[0])
    at_zero = section["incumbent"]["estimates"]["DR"]["values"][0]
    assert at_zero == pytest.approx(0.7, abs=0.06)  # mean chance of "dear" over both kinds


@pytest.mark.parametrize(
    ("incumbent", "message"),
    [
        ("always:nope", "no such model; allowed: dear, code, cheap"),
        ("nowhere", "neither the folder of a policy"),
    ],
)
def test_unknown_incumbents_are_refused(tmp_path, incumbent, message):
    with pytest.raises(InputError, match=message):
        evaluated(log_run(tmp_path, SavedKindPolicy(), n=400), f"evaluate.incumbent={incumbent}")


def test_an_external_log_counts_but_for_training_prompts(tmp_path):
    config = log_run(tmp_path, SavedKindPolicy(), n=800)
    path = save_log(uniform_log(outcomes(800, 5), config, seed=8), tmp_path / "later.parquet")
    before = (config.run.path / OVERRIDES_FILE).read_text()
    gated = ["evaluate.incumbent=logged", "evaluate.gate=true"]
    assert main(["evaluate", f"run={config.run.path}", f"log={path}", *gated]) == GATE_EXIT_CODES["ship"]
    section = json.loads(RunLayout.of(config).metrics.read_text())["log_evaluation"]
    splits = pl.read_parquet(RunLayout.of(config).splits)
    assert section["log"]["n_events"] == splits["split"].is_in(["test", "ood"]).sum()
    assert section["log"]["source"] == str(path)
    assert (config.run.path / OVERRIDES_FILE).read_text() == before


def test_a_log_of_unknown_prompts_is_refused(tmp_path):
    config = log_run(tmp_path, SavedKindPolicy(), n=400)
    path = save_log(uniform_log(outcomes(30, 77), config), tmp_path / "strange.parquet")
    with pytest.raises(InputError, match="row 1, column 'prompt_id': 'p77-"):
        evaluated(config, f"log={path}")


def test_new_prompts_with_the_text_of_training_prompts_do_not_count(tmp_path):
    config = log_run(tmp_path, SavedKindPolicy(), n=600)
    splits = pl.read_parquet(RunLayout.of(config).splits)
    prompts = pl.read_csv(tmp_path / "prompts.csv")
    trained = prompts.join(splits.filter(pl.col("split") == "train"), on="prompt_id")
    copies = trained.select(
        pl.format("copy-{}", "prompt_id").alias("prompt_id"), pl.format("{}!", "prompt"), "task"
    )
    pl.concat([prompts, copies.rename({copies.columns[1]: "prompt"})]).write_csv(tmp_path / "more.csv")
    log = uniform_log(outcomes(600, 5), config, seed=3)
    copied = log.join(trained.select("prompt_id"), on="prompt_id", how="semi").with_columns(
        pl.format("copy-{}", "prompt_id").alias("prompt_id"), pl.format("c{}", "event_id").alias("event_id")
    )
    path = save_log(pl.concat([log, copied]), tmp_path / "later.parquet")
    section = evaluated(config, f"log={path}", f"data.prompts={tmp_path / 'more.csv'}")
    assert section["log"]["n_events"] == (splits["split"] == "test").sum()


def test_a_log_without_exploration_is_not_enough_data(tmp_path):
    def deterministic(log):
        return log.with_columns(propensity=pl.lit(1.0))

    config = log_run(tmp_path, SavedKindPolicy(), change=deterministic)
    section = evaluated(config)
    assert section["verdict"]["decision"] == "not enough data"
    assert any("never tried another model" in reason for reason in section["verdict"]["reasons"])


def test_tiny_propensities_are_counted_and_do_not_ship_by_luck(tmp_path):
    def nearly_greedy(log):
        # "dear" is called but for one in 400; the few other events carry weights of 800.
        keep = (pl.col("model") == "dear") | (pl.int_range(pl.len()) % 133 == 0)
        shares = pl.when(pl.col("model") == "dear").then(0.9975).otherwise(0.00125)
        return log.filter(keep).with_columns(propensity=shares)

    section = evaluated(
        log_run(tmp_path, SavedKindPolicy(), change=nearly_greedy, n=4000), "evaluate.incumbent=logged"
    )
    assert section["verdict"]["decision"] == "not enough data"
    assert section["candidate"]["diagnostics"]["share_below_floor"][0] > 0.0


def test_missing_scores_are_left_out_counted_and_said(tmp_path, capsys):
    def late(log):
        gone = (pl.int_range(pl.len()) % 5 == 0) & (pl.col("model") == "code")
        return log.with_columns(score=pl.when(gone).then(None).otherwise("score"))

    config = log_run(tmp_path, SavedKindPolicy(), change=late)
    section = evaluate.run(config)
    log = pl.read_parquet(RunLayout.of(config).feedback).join(
        pl.read_parquet(RunLayout.of(config).splits).filter(pl.col("split") == "test"), on="prompt_id"
    )
    missing = log["score"].null_count()
    assert missing > 0
    assert section["log"]["n_without_outcome"] == {"code": missing}
    assert section["log"]["n_events"] == log.height - missing
    assert f"{missing} left out: no score or cost has arrived ({missing} of code)" in capsys.readouterr().out


def test_models_come_and_go(tmp_path):
    data = outcomes(2400, 5)
    data.costs_usd[::3, 0] = np.nan  # "dear" was not there for every third prompt
    log = simulate_log(data, load_config([]).simulate, seed=0)
    config = log_run(tmp_path, AlwaysPolicy(MODELS, "dear"), change=lambda _: log)
    events = load_feedback(RunLayout.of(config), config, ("test",))
    decided = decisions(AlwaysPolicy(MODELS, "dear"), events, np.array([0.0, 1.0]))
    assert (decided[:, ~events.eligible] == 0.0).all()
    assert (decided[:, events.eligible[:, 0], 0] == 1.0).all()
    section = evaluated(config, "evaluate.incumbent=always:cheap")
    share = section["log"]["eligible_share"]
    assert share["dear"] == pytest.approx(events.eligible[:, 0].mean())
    assert share["code"] == share["cheap"] == 1.0
    # True propensities of one half and one third: the weights of both policies average to one.
    for side in ("candidate", "incumbent"):
        assert section[side]["diagnostics"]["mean_weight"][0] == pytest.approx(1.0, abs=0.15)


def test_events_that_could_have_called_a_model_outside_the_pool_do_not_count(plain_run, tmp_path):
    config = plain_run
    log = uniform_log(outcomes(2400, 5), config, seed=4)
    wider = pl.int_range(pl.len()) % 4 == 0
    log = log.with_columns(
        eligible=pl.when(wider).then(pl.lit([*MODELS, "retired"])).otherwise("eligible"),
        model=pl.when(wider & (pl.int_range(pl.len()) % 16 == 0)).then(pl.lit("retired")).otherwise("model"),
        propensity=pl.when(wider).then(0.25).otherwise("propensity"),
    )
    section = evaluated(config, f"log={save_log(log, tmp_path / 'wide.parquet')}")
    splits = dict(pl.read_parquet(RunLayout.of(config).splits).select("prompt_id", "split").iter_rows())
    outside = sum(splits[p] == "test" for p in log.filter(wider)["prompt_id"])
    assert section["log"]["n_outside_pool"] == outside
    assert sum(section["log"]["events_per_model"].values()) == section["log"]["n_events"]


def test_repeated_events_count_once_and_conflicting_ones_are_refused(tmp_path, capsys):
    config = log_run(tmp_path, SavedKindPolicy(), n=600)
    log = uniform_log(outcomes(600, 5), config)
    once = evaluated(config, f"log={save_log(log, tmp_path / 'once.parquet')}")
    twice = evaluated(config, f"log={save_log(pl.concat([log, log.head(9)]), tmp_path / 'twice.parquet')}")
    assert twice["log"]["n_events"] == once["log"]["n_events"]
    assert twice["log"]["notes"] == ["9 repeated rows of events dropped"]
    other = log.head(1).with_columns(score=1.0 - pl.col("score"))
    path = save_log(pl.concat([log, other]), tmp_path / "conflict.parquet")
    with pytest.raises(InputError, match=f"'{log['event_id'][0]}' has .*, but "):
        evaluated(config, f"log={path}")


def test_exit_codes_follow_the_verdict_only_under_the_gate(tmp_path):
    config = log_run(tmp_path, AlwaysPolicy(MODELS, "dear"), n=800)
    worse = ["evaluate", f"run={config.run.path}", "evaluate.incumbent=always:cheap"]
    assert main([*worse, "evaluate.gate=true"]) == 3
    assert main([*worse, "evaluate.gate=false"]) == 0
    assert main([*worse, "evaluate.gate=true", "evaluate.verdict.min_events=100000"]) == 4


def test_the_page_needs_nothing_else_and_is_the_same_twice(tmp_path):
    config = log_run(tmp_path, SavedKindPolicy(), n=1200)
    evaluate.run(config)
    layout = RunLayout.of(config)
    page, figures = layout.report.read_bytes(), layout.metrics.read_bytes()
    evaluate.run(config)
    assert layout.report.read_bytes() == page
    assert layout.metrics.read_bytes() == figures
    text = re.sub(r"<script>.*?</script>", "", page.decode(), flags=re.S)
    assert "May this policy ship?" in text
    for name in ("log-value", "log-difference", "log-segments"):
        assert text.count(f'id="{name}"') == 1
    assert "default-src 'none'" in text


def test_the_cost_scale_is_that_of_the_training_part(plain_run):
    training = load_feedback(RunLayout.of(plain_run), plain_run, ("train",))
    assert evaluated(plain_run)["tau_usd"] == pytest.approx(np.quantile(training.costs_usd, 0.95))
