"""Real searches of two or three trials; the runs hold embeddings of training and validation prompts alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from pipeline import simulate, tune
from pipeline.compose import load_config
from pipeline.config import TradewindConfig
from pipeline.config.tune import Choices, Dimension, Interval
from pipeline.embedding_table import EmbeddingTable, write_embeddings
from pipeline.join import load_outcomes
from pipeline.layout import RunLayout
from pipeline.search.objective import Judgement, Jury
from pipeline.search.results import TrialRecord, choose
from pipeline.search.space import SearchSpace, with_values
from pipeline.search.spec import SearchFolder, SearchSpec, search_space
from pipeline.search.strategy import RememberingPB2, SparingAsha
from pipeline.search.tracking import PARENT_TAG, TRIAL_TAG
from pipeline.search.trial import Candidate, whole_checkpoint
from pipeline.tracker import tracking_uri
from policies.barp.network import BarpNetwork, NetworkShape
from policies.barp.policy import BarpPolicy
from policies.bundle import RouterBundle
from policies.errors import InputError
from policies.preference import dial_grid, preferences_from_w_cost, reward
from policies.rllib.columns import TRAIN, VALIDATION, training_columns, write_columns
from tests.pipeline.evaluation_case import ENCODER, POOL, outcomes, prepared_run

SPACE = (
    "{policy.lr:{low:1e-4,high:1e-2,log:true},train.tau_quantile:{low:0.6,high:0.99},"
    "policy.hidden:{choices:[[8],[4,4]]}}"
)
SMALL = (
    "policy=barp",
    "policy.hidden=[8]",
    "policy.batch_size=64",
    "policy.max_epochs=2",
    f"tune.space={SPACE}",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of all runs here: making MLflow's tables takes longer than a search."""
    return tmp_path_factory.mktemp("runs")


def make_run(folder: Path, root: Path, *overrides: str, learner: tuple[str, ...] = SMALL) -> TradewindConfig:
    data = outcomes(400, 0)
    config = prepared_run(folder, data, f"run.root={root}", *learner, *overrides)
    layout = RunLayout.of(config)
    if config.train.mode == "logged":
        simulate.run(config)
        layout.outcomes.unlink()
    # Without a vector, a test prompt that anything reads is an error.
    splits = pl.read_parquet(layout.splits)
    known = splits.filter(pl.col("split").is_in(["train", "validation"]))["prompt_id"].to_list()
    kept = data.rows(np.isin(data.prompt_ids, known))
    shutil.rmtree(layout.embeddings)
    hashes = np.array(["h"] * len(kept), dtype=object)
    table = EmbeddingTable(kept.prompt_ids.astype(object), hashes, kept.embeddings, ENCODER)
    write_embeddings(table, layout.embeddings)
    return config


@dataclass(frozen=True)
class Searched:
    config: TradewindConfig
    layout: RunLayout
    folder: SearchFolder
    records: list[TrialRecord]
    body: dict


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, root: Path, ray_session: None) -> Searched:
    """Three trials with several objectives; the winner is retrained and registered."""
    overrides = ("tune=multi", "tune.num_samples=3", "tune.grace_epochs=1")
    config = make_run(tmp_path_factory.mktemp("searched"), root, *overrides)
    records = tune.run(config)
    layout = RunLayout.of(config)
    folder = SearchFolder(layout.root / "tune")
    return Searched(config, layout, folder, records, json.loads(folder.results.read_text()))


def children(config: TradewindConfig, parent_run_id: str) -> list:
    client = MlflowClient(tracking_uri(config))
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(ids, f"tags.`{PARENT_TAG}` = '{parent_run_id}'"))


def test_the_run_has_no_vectors_of_test_prompts(searched):
    with pytest.raises(InputError, match="has no embedding"):
        load_outcomes(searched.layout, searched.config, ("test",))


def test_results_hold_every_trial_best_first(searched):
    rewards = [trial["reward"] for trial in searched.body["trials"]]
    assert len(rewards) == 3
    assert rewards == sorted(rewards, reverse=True)
    assert all(trial["setup_s"] > 0.0 for trial in searched.body["trials"])


def test_the_configuration_as_it_is_was_tried(searched):
    tried = [
        (trial.values["policy.hidden"], trial.values["train.tau_quantile"]) for trial in searched.records
    ]
    assert ([8], 0.95) in tried
    assert searched.body["default_reward"] <= searched.records[0].reward
    assert searched.body["default_epochs"] == searched.config.policy.max_epochs


def test_every_trial_is_a_child_of_one_run(searched):
    spec = SearchSpec.read(searched.folder.spec)
    runs = children(searched.config, spec.parent_run_id)
    assert {run.data.tags[TRIAL_TAG] for run in runs} == {record.trial_id for record in searched.records}
    for run in runs:
        assert run.info.status == "FINISHED"
        assert set(run.data.params) == {"policy.lr", "train.tau_quantile", "policy.hidden"}
        assert {"reward", "cost_rise", "largest_share", "loss"} <= set(run.data.metrics)


def test_winner_is_retrained_on_both_splits_and_becomes_challenger(searched):
    bundle = RouterBundle.load(searched.folder.challenger / "policy")
    train, validation = (
        load_outcomes(searched.layout, searched.config, (s,)) for s in ("train", "validation")
    )
    assert bundle.notes["train_rows"] == len(train) + len(validation)
    client = MlflowClient(tracking_uri(searched.config))
    version = client.get_model_version_by_alias(searched.config.tracking.model, "challenger")
    assert version.tags["policy_version"] == bundle.policy_version
    best = searched.body["best"]
    history = (searched.folder.challenger / "history.jsonl").read_text().splitlines()
    assert len(history) == best["best_epoch"]


def test_challengers_folder_is_a_run_with_the_best_values(searched):
    again = load_config([f"run={searched.folder.challenger}"])
    assert with_values(again, searched.body["best"]["values"]) == again
    assert RunLayout.of(again).prompts.exists()


def test_printed_command_holds_the_best_values(searched):
    words = searched.records[0].overrides()
    assert (
        load_config([f"run={searched.layout.root}", *words]).policy.lr
        == searched.records[0].values["policy.lr"]
    )


def wait_for(
    pattern: str,
    folder: Path,
    process: subprocess.Popen,
    *,
    newer_than: float = 0.0,
    timeout_s: float = 300.0,
) -> Path:
    """Return the first match of a pattern written after a time, while the process runs."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = [path for path in folder.glob(pattern) if path.stat().st_mtime > newer_than]
        if found:
            return found[0]
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {pattern} after {timeout_s} s"
        time.sleep(0.02)


def test_search_goes_on_after_the_driver_was_killed(tmp_path, root, ray_session):
    import ray

    overrides = (
        "tune.num_samples=2",
        "tune.grace_epochs=60",
        "tune.retrain=false",
        "tune.checkpoint_epochs=5",
    )
    config = make_run(tmp_path, root, *overrides, "tune.max_epochs=60", "policy.patience_epochs=60")
    layout, folder = RunLayout.of(config), SearchFolder(RunLayout.of(config).root / "tune")
    cluster = f"cluster.address={ray.get_runtime_context().gcs_address}"
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "tune", f"run={layout.root}", cluster],
        env={**os.environ, "TUNE_GLOBAL_CHECKPOINT_S": "0.2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    saved = wait_for("trials/*/checkpoint_*/progress.json", folder.root, process)
    # Tune goes on from what its own snapshot knows: give it one that was taken well after the checkpoint.
    wait_for("trials/experiment_state-*.json", folder.root, process, newer_than=saved.stat().st_mtime + 0.7)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not folder.results.exists()
    spec = SearchSpec.read(folder.spec)
    before = {run.data.tags[TRIAL_TAG] for run in children(config, spec.parent_run_id)}

    with pytest.raises(InputError, match="resume="):
        tune.run(config)
    records = tune.run(load_config([f"resume={folder.root}"]))

    assert {record.epochs for record in records} == {60}
    assert len(records) == 2
    runs = children(config, spec.parent_run_id)
    finished = {run.data.tags[TRIAL_TAG] for run in runs if run.info.status == "FINISHED"}
    assert finished == {record.trial_id for record in records}
    assert len(runs) == len(before | finished)
    went_on = [
        [json.loads(line)["epoch"] for line in path.read_text().splitlines()]
        for path in folder.trials.glob("*/result.json")
    ]
    study = OptunaSearch({}, metric="reward", mode="max")
    study.restore_from_dir(str(folder.trials))
    assert sorted(trial.value for trial in study._ot_study.trials) == sorted(r.reward for r in records)
    assert any(epochs.count(1) == 1 and len(epochs) >= 60 for epochs in went_on if epochs[0] == 1)


def test_a_trial_whose_process_died_goes_on_from_its_checkpoint(tmp_path, root, ray_session):
    overrides = (
        "tune.num_samples=1",
        "tune.grace_epochs=40",
        "tune.max_epochs=40",
        "policy.patience_epochs=40",
        "tune.checkpoint_epochs=5",
        "tune.retrain=false",
    )
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    undisturbed, disturbed = (make_run(tmp_path / name, root, *overrides) for name in ("one", "other"))
    (expected,) = tune.run(undisturbed)
    folder = SearchFolder(RunLayout.of(disturbed).root / "tune")
    killed, over = [], threading.Event()

    def kill():
        # Once it trains on, Tune knows of the checkpoint.
        while not any('"epoch": 8' in path.read_text() for path in folder.root.glob("trials/*/result.json")):
            if over.wait(0.02):
                return
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # others come and go
                if "".join(process.cmdline()).startswith("ray::SearchTrial"):
                    killed.append(process.pid)
                    process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        (record,) = tune.run(disturbed)
    finally:
        over.set()
        killer.join()
    assert len(killed) == 1
    assert record.epochs == 40
    assert (record.reward, record.best_epoch) == (expected.reward, expected.best_epoch)
    (trial,) = folder.trials.glob("*/result.json")
    epochs = [json.loads(line)["epoch"] for line in trial.read_text().splitlines()]
    assert epochs.count(1) == 1, "it did not begin anew"


@pytest.fixture
def arrays(tmp_path):
    for name, seed in ((TRAIN, 1), (VALIDATION, 2)):
        write_columns(tmp_path / "arrays" / name, training_columns(outcomes(150, seed)))
    return tmp_path / "arrays"


def candidate_spec():
    config = load_config(["policy=barp", "policy.hidden=[8]", "policy.batch_size=32"])
    return SearchSpec(config.plain(), tuple(asdict(model) for model in POOL.specs), 2, 0.01, "", "", "")


def optimiser_settings(candidate):
    learner = candidate.algorithm.learner_group._learner
    group = next(iter(learner._named_optimizers.values())).param_groups[0]
    return group["lr"], group["weight_decay"]


def test_values_change_but_weights_stay_when_a_trial_takes_over_another(arrays, tmp_path, ray_session):
    spec = candidate_spec()
    donor = Candidate(spec, {"policy.lr": 1e-3, "policy.weight_decay": 0.0}, arrays)
    taker = Candidate(spec, {"policy.lr": 1e-2, "policy.weight_decay": 0.1}, arrays)
    same = Candidate(spec, {"policy.lr": 1e-3, "policy.weight_decay": 0.0}, arrays)
    try:
        donor.advance()
        (tmp_path / "checkpoint").mkdir()
        donor.save(tmp_path / "checkpoint")
        taker.load(tmp_path / "checkpoint")
        same.load(tmp_path / "checkpoint")
        for name, value in donor.algorithm.module_state().items():
            np.testing.assert_array_equal(value, taker.algorithm.module_state()[name])
        assert optimiser_settings(taker) == (1e-2, 0.1)
        assert [stage["from_epoch"] for stage in taker.schedule] == [0, 1]
        assert len(same.schedule) == 1
        assert same.advance()["loss"] == donor.advance()["loss"]
        assert optimiser_settings(taker) == (1e-2, 0.1)
    finally:
        for candidate in (donor, taker, same):
            candidate.stop()


def test_a_checkpoint_that_a_kill_left_incomplete_gives_way_to_the_newest_whole_one(
    arrays, tmp_path, ray_session
):
    candidate = Candidate(candidate_spec(), {}, arrays)
    folders = [tmp_path / f"checkpoint_{number:06d}" for number in range(4)]
    try:
        for folder in folders:
            candidate.advance()
            folder.mkdir()
            candidate.save(folder)
    finally:
        candidate.stop()
    half_deleted, whole, half_copied = folders[1], folders[2], folders[3]
    (half_deleted / "progress.json").unlink()
    max((half_copied / "algorithm").rglob("*.*"), key=lambda path: path.stat().st_size).unlink()
    assert whole_checkpoint(folders[0]) == folders[0]
    assert whole_checkpoint(half_deleted) == whole
    assert whole_checkpoint(tmp_path / "checkpoint_000009") == whole
    for folder in folders:
        (folder / "progress.json").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match="every other checkpoint"):
        whole_checkpoint(whole)


def test_judgement_is_the_reward_of_greedy_decisions_at_the_reference_scale(arrays):
    tau_usd, data = 0.004, outcomes(150, 2)
    network = BarpNetwork(NetworkShape(2, 3, hidden=(8,))).eval()
    judged = Jury.of(arrays, tau_usd).judge_network(network)
    policy = BarpPolicy(("dear", "code", "cheap"), network)
    rewards, costs, chosen = [], [], []
    for w_cost in dial_grid():
        w = preferences_from_w_cost(w_cost, len(data))
        action = policy.action_probabilities(data.embeddings, w).argmax(axis=1)
        rows = np.arange(len(data))
        rewards.append(reward(data.scores[rows, action], data.costs_usd[rows, action], w, tau_usd).mean())
        costs.append(np.minimum(data.costs_usd[rows, action] / tau_usd, 1.0).mean())
        chosen.append(action)
    dearest = np.minimum(data.costs_usd / tau_usd, 1.0).mean(axis=0).max()
    assert judged.reward == pytest.approx(np.mean(rewards), abs=1e-6)
    assert judged.cost_rise == pytest.approx(max(np.diff(costs).max(), 0.0) / dearest, abs=1e-6)
    assert Jury.of(arrays, tau_usd).judge_policy(policy) == judged
    assert judged.largest_share == pytest.approx(np.bincount(np.concatenate(chosen)).max() / np.size(chosen))


def test_outcome_model_counts_by_its_last_epoch(arrays, ray_session):
    config = load_config(["policy=outcome_model", "policy.simulated_online.epochs=3", "policy.members=2"])
    spec = replace(candidate_spec(), config=config.plain())
    candidate = Candidate(spec, {"policy.simulated_online.hidden": 16}, arrays)
    try:
        rewards = [candidate.advance() for _ in range(3)]
        assert [metrics["reward"] for metrics in rewards] == [metrics["epoch_reward"] for metrics in rewards]
        assert Jury.of(arrays, spec.reference_tau_usd).judge_policy(candidate.policy()) == Judgement(
            rewards[-1]["reward"], rewards[-1]["cost_rise"], rewards[-1]["largest_share"]
        )
    finally:
        candidate.stop()


@pytest.mark.parametrize("cpus_per_trial", [1, 2])
def test_pb2_takes_over_outcome_models_of_a_log(tmp_path, root, ray_session, cpus_per_trial):
    """With two slots for three trials, and with one."""
    space = "{policy.lr:{low:3e-4,high:1e-2,log:true},policy.input_dropout:{low:0.0,high:0.4}}"
    config = make_run(
        tmp_path,
        root,
        "train.mode=logged",
        "tune=pb2",
        f"tune.cpus_per_trial={cpus_per_trial}",
        "tune.num_samples=3",
        "tune.grace_epochs=1",
        "tune.max_epochs=5",
        "tune.retrain=false",
        learner=("policy=outcome_model", "policy.members=2", "policy.components=2", f"tune.space={space}"),
    )
    records = tune.run(config)
    assert [record.error for record in records] == [""] * 3
    assert max(record.epochs for record in records) == 5
    folder = SearchFolder(RunLayout.of(config).root / "tune")
    # Ray's own record of takeovers; the taker's values may be the donor's.
    assert (folder.trials / "pbt_global.txt").exists(), "no trial went on from another one's weights"
    seen = json.loads(folder.scheduler.read_text())
    assert len(seen["Reward"]) >= 3


def asha(memory):
    """Return ASHA with rungs at 1 and 2 epochs, and three trials that it knows."""
    scheduler = SparingAsha(
        {"lr": 0.5}, memory, metric="reward", mode="max", time_attr="training_iteration", grace_period=1,
        reduction_factor=2, max_t=8,
    )  # fmt: skip
    trials = [Trial("x", config={"lr": lr}, stub=True, trial_id=f"t{lr}") for lr in (0.5, 0.1, 0.2)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    return scheduler, trials


def first_epoch(reward):
    return {"training_iteration": 1, "reward": reward}


def test_resumed_asha_compares_with_the_trials_of_before(tmp_path):
    scheduler, (_, good, _) = asha(tmp_path / "scheduler.json")
    assert scheduler.on_trial_result(None, good, first_epoch(0.9)) == TrialScheduler.CONTINUE
    resumed, (spared, _, poor) = asha(tmp_path / "scheduler.json")
    assert resumed.on_trial_result(None, poor, first_epoch(0.1)) == TrialScheduler.STOP
    assert resumed.on_trial_result(None, spared, first_epoch(0.0)) == TrialScheduler.CONTINUE
    new, (_, _, poor) = asha(tmp_path / "another.json")
    assert new.on_trial_result(None, poor, first_epoch(0.1)) == TrialScheduler.CONTINUE


def test_resumed_pb2_knows_what_was_seen(tmp_path):
    def pb2():
        settings = {"metric": "reward", "mode": "max", "time_attr": "training_iteration"}
        scheduler = RememberingPB2(
            tmp_path / "scheduler.json", hyperparam_bounds={"lr": [0.0, 1.0]}, **settings
        )
        trial = Trial("x", config={"lr": 0.5}, stub=True, trial_id="t")
        scheduler.on_trial_add(SimpleNamespace(search_alg=None), trial)
        return scheduler, trial

    first, trial = pb2()
    first._save_trial_state(first._trial_state[trial], 1, first_epoch(0.3), trial)
    resumed, _ = pb2()
    assert resumed.data.to_dict() == first.data.to_dict()
    assert resumed.data["Reward"].tolist() == [0.3]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{policy.lrr:{low:1e-4,high:1e-2}}", r"policy\.lrr.*did you mean 'policy\.lr'"),
        ("{nothing.here:{low:0,high:1}}", "nothing"),
        ("{policy.lr:{low:-1,high:1}}", r"policy\.lr"),
        ("{train.tau_usd:{low:1e-3,high:1}}", "yardstick"),
        ("{train.mode:{choices:[logged]}}", "yardstick"),
    ],
)
def test_bad_spaces_are_refused(space, message):
    with pytest.raises(InputError, match=message):
        search_space(load_config([f"tune.space={space}"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.samples=3", r"tune\.samples=3: unknown key"),
        ("tune.objectives=[cost_rise]", "allowed: reward"),
        ("tune.scheduler=pb2", "searcher=random"),
        ("tune.space={policy.lr:{low:1,high:0}}", "not below"),
        ("tune.space={policy.lr:{low:0,high:1,log:true}}", "above 0"),
        ("resume=/nowhere/at/all", "neither the folder of a run"),
    ],
)
def test_bad_settings_are_refused(override, message):
    with pytest.raises(InputError, match=message):
        load_config([override])


def test_changed_data_cannot_be_resumed(tmp_path, root):
    config = make_run(tmp_path, root)
    folder = SearchFolder(RunLayout.of(config).root / "tune")
    folder.root.mkdir()
    SearchSpec(config.plain(), (), 2, 0.01, "other", "other", "").write(folder.spec)
    with pytest.raises(InputError, match="no longer what the search began with"):
        tune.run(load_config([f"resume={folder.root}"]))


@pytest.mark.parametrize("log10", [False, True])
def test_the_configuration_as_it_is_is_a_point(log10):
    config = load_config(["policy=barp", "policy.lr=0.002", "policy.hidden=[7,7]", "policy.dropout=0.25"])
    keys: dict[str, Dimension] = {
        "policy.lr": Interval(low=1e-4, high=1e-2, log=True),
        "policy.dropout": Interval(low=0.0, high=0.5),
        "policy.hidden": Choices(choices=((8,), (16, 16))),
        "policy.batch_size": Interval(low=16, high=512, log=True, integer=True),
    }
    space = SearchSpace(keys, log10).including(config)
    assert with_values(config, space.values_of(space.point_of(config))) == config


@given(st.floats(-1e3, 1e3), st.booleans(), st.booleans())
def test_values_never_leave_their_interval(point, log10, log):
    space = SearchSpace({"policy.lr": Interval(low=1e-4, high=0.3, log=log)}, log10)
    assert 1e-4 <= space.values_of({"policy.lr": min(point, 300.0)})["policy.lr"] <= 0.3


def record(reward_value, cost_rise=0.0, largest_share=0.5, error=""):
    return TrialRecord("t", {}, reward_value, cost_rise, largest_share, 1, 1, error=error)


def test_a_collapsed_or_rising_trial_does_not_win():
    limits = load_config(["tune.max_cost_rise=0.01", "tune.max_largest_share=0.9"]).tune
    good = record(0.3)
    collapsed, rising = record(0.5, largest_share=0.95), record(0.4, cost_rise=0.02)
    assert choose([collapsed, rising, good], limits) == (good, True)
    assert choose([collapsed, rising], limits) == (collapsed, False)


def test_a_trial_stopped_before_its_last_epoch_does_not_win():
    early, whole = replace(record(0.5), usable=False), record(0.3)
    assert choose([early, whole], load_config([]).tune) == (whole, True)


def test_a_search_without_a_finished_epoch_says_why():
    with pytest.raises(RuntimeError, match="the loss is not finite"):
        choose([record(None, None, None, error="the loss is not finite")], load_config([]).tune)
