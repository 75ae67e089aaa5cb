"""Registering with a real MLflow on sqlite, loading and scoring what was registered, and serving from it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from pipeline import register, rollback
from pipeline.compose import load_config, record_config
from pipeline.config import TradewindConfig
from pipeline.layout import RunLayout
from pipeline.register import Registered
from policies.bundle import RouterBundle
from policies.constants import BestSinglePolicy
from policies.costs import CostModel
from policies.encoder import load_encoder
from policies.errors import InputError
from policies.leftovers import STALE_S, this_process
from policies.pool import ModelPool, ModelSpec
from serve.registry import find_bundle, load_bundle
from serve.settings import ServeSettings
from tests.policies.leftovers_case import ELSEWHERE, gone_process

POOL = ModelPool("two", (ModelSpec("good", 3.0, 15.0), ModelSpec("cheap", 0.1, 0.4)))


def bundle_of(mean_score: float) -> RouterBundle:
    policy = BestSinglePolicy(POOL.models, np.array([mean_score, 0.4]), np.array([0.9, 0.1]))
    cost_model = CostModel(POOL.prices_per_token_usd, 50.0, np.array([0.003, 0.0001]))
    identity = load_encoder("minilm", "torch-fp32", 64, 1024).identity
    return RouterBundle(policy, POOL, identity, cost_model, tau_usd=0.01)


@dataclass(frozen=True)
class Case:
    config: TradewindConfig
    layout: RunLayout
    first: Registered


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp("runs")
    overrides = [f"run.root={root}", "run.name=one", "encoder.batch_tokens=512"]
    config = load_config(overrides)
    layout = RunLayout.of(config)
    record_config(config, overrides)
    bundle_of(0.9).save(layout.policy)
    history = [{"epoch": e, "loss": 1.0 / (e + 1), "validation": {"mean_reward": 0.1 * e}} for e in range(3)]
    layout.history.write_text("".join(json.dumps(row) + "\n" for row in history))
    layout.metrics.write_text(json.dumps({"test": {"mean_reward": 0.5, "aiq": None, "name": "x"}}))
    layout.report.write_text("<html></html>")
    return Case(config, layout, register.run(config))


@pytest.fixture
def client(case: Case) -> MlflowClient:
    return MlflowClient(case.first.tracking_uri, case.first.tracking_uri)


@pytest.fixture(scope="module")
def model(case):
    import mlflow

    mlflow.set_tracking_uri(case.first.tracking_uri)
    return mlflow.pyfunc.load_model(case.first.uri)


def test_the_default_tracker_is_a_sqlite_file_with_artifacts_beside_it(case, client):
    root = Path(case.config.run.root)
    assert (root / "mlflow.db").is_file()
    assert client.get_run(case.first.run_id).info.artifact_uri.startswith(root.as_uri())


def test_the_resolved_configuration_becomes_parameters(case, client):
    params = client.get_run(case.first.run_id).data.params
    assert params["policy.lr"] == str(case.config.policy.lr)
    assert params["run.name"] == "one"


def test_the_history_becomes_metrics_over_time(case, client):
    points = client.get_metric_history(case.first.run_id, "train/validation/mean_reward")
    assert [point.step for point in points] == [0, 1, 2]
    assert [point.value for point in points] == pytest.approx([0.0, 0.1, 0.2])


def test_stages_of_a_training_have_metrics_of_their_own_counted_as_they_count(tmp_path):
    lines = [
        {"stage": "identity", "epoch": 1, "loss": 0.9},
        {"stage": "pretrain", "step": 50, "imitation_loss": 0.5},
        {"stage": "ppo", "iteration": 0, "validation_reward": 0.3},
    ]
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {(metric.key, metric.step): metric.value for metric in register._history_metrics(path)}
    assert found == {
        ("train/identity/loss", 1): 0.9,
        ("train/pretrain/imitation_loss", 50): 0.5,
        ("train/ppo/validation_reward", 0): 0.3,
    }


def test_final_metrics_hold_what_was_measured_and_no_missing_value(case, client):
    metrics = client.get_run(case.first.run_id).data.metrics
    assert {k: v for k, v in metrics.items() if k.startswith("final/")} == {"final/test/mean_reward": 0.5}


def test_configuration_report_and_policy_are_artifacts(case, client):
    names = {entry.path for entry in client.list_artifacts(case.first.run_id)}
    assert {"config.yaml", "metrics.json", "history.jsonl", "report.html", "policy"} <= names


def test_the_alias_points_at_the_version(case, client):
    version = client.get_model_version_by_alias("tradewind-router", "champion")
    assert str(version.version) == case.first.version
    assert version.tags["policy_version"] == case.first.policy_version


def test_registered_json_says_what_was_registered(case):
    body = json.loads(case.layout.registered.read_text())
    assert body["policy_version"] == RouterBundle.load(case.layout.policy).policy_version
    assert body["uri"] == "models:/tradewind-router@champion"


def test_the_loaded_model_decides_by_preference(case, model):
    frame = pd.DataFrame({"prompt": ["hello", "hello"], "w_cost": [0.0, 1.0]})
    decided = model.predict(frame)
    assert decided["model"].tolist() == ["good", "cheap"]
    assert decided["probability"].tolist() == [1.0, 1.0]
    assert set(decided["policy_version"]) == {case.first.policy_version}
    np.testing.assert_allclose(decided[["probability:good", "probability:cheap"]].sum(axis=1), 1.0)


def test_the_loaded_model_prices_the_call(case, model):
    decided = model.predict(pd.DataFrame({"prompt": ["x" * 400], "w_cost": [1.0]}))
    assert decided["expected_cost_usd"][0] == pytest.approx(100 * 0.1e-6 + 0.0001)


def test_the_loaded_model_normalises_two_weights(model):
    frame = pd.DataFrame({"prompt": ["a", "a"], "w_cost": [3.0, 1.0], "w_quality": [1.0, None]})
    assert model.predict(frame)["model"].tolist() == ["cheap", "cheap"]


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        ({"prompt": ["a", " "], "w_cost": [0.1, 0.2]}, "row 1, column 'prompt'"),
        ({"prompt": ["a", "b"], "w_cost": [0.1, 1.2]}, "row 1: w_cost"),
        ({"prompt": ["a"], "w_cost": [0.0], "w_quality": [0.0]}, "row 0"),
    ],
)
def test_bad_rows_are_named(model, frame, named):
    with pytest.raises(InputError, match=named):
        model.predict(pd.DataFrame(frame))


def test_serving_finds_the_champion_in_the_registry(case, tmp_path):
    settings = ServeSettings(tracking_uri=case.first.tracking_uri, cache_dir=str(tmp_path))
    assert load_bundle(settings).policy_version == case.first.policy_version


def test_serving_keeps_the_downloaded_artifact(case, tmp_path):
    settings = ServeSettings(tracking_uri=case.first.tracking_uri, cache_dir=str(tmp_path))
    downloaded = find_bundle(settings)
    marker = downloaded / "marker"
    marker.touch()
    assert find_bundle(settings) == downloaded
    assert marker.exists()
    assert [path.name for path in tmp_path.iterdir()] == [case.first.policy_version]


def test_serving_without_a_champion_says_so(case, tmp_path):
    settings = ServeSettings(
        tracking_uri=case.first.tracking_uri, alias="nobody", cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(InputError, match="nobody"):
        find_bundle(settings)


def test_without_a_policy_the_missing_stage_is_named(tmp_path):
    with pytest.raises(InputError, match="pipeline train"):
        register.run(load_config([f"run.root={tmp_path}", "run.name=empty"]))


def test_registering_again_reuses_the_version_and_updates_metrics(case, client):
    case.layout.metrics.write_text(json.dumps({"test": {"mean_reward": 0.6}}))
    again = register.run(case.config)
    assert (again.version, again.run_id) == (case.first.version, case.first.run_id)
    assert client.get_run(again.run_id).data.metrics["final/test/mean_reward"] == 0.6
    assert len(client.search_model_versions("name = 'tradewind-router'")) == 1


def test_runs_of_killed_registrations_are_ended_and_a_live_one_s_is_left_alone(case, client):
    now_ms = int(time.time() * 1000)
    long_ago_ms = now_ms - int(2000 * STALE_S)
    begun = {
        "killed": (gone_process(), now_ms),
        "live": (this_process(), long_ago_ms),
        "elsewhere": (ELSEWHERE, now_ms),
        "elsewhere, long ago": (ELSEWHERE, long_ago_ms),
    }
    experiment_id = client.get_run(case.first.run_id).info.experiment_id
    runs = {}
    for name, (process, start_ms) in begun.items():
        tags = {register.POLICY_VERSION_TAG: case.first.policy_version, register.PROCESS_TAG: process}
        runs[name] = client.create_run(experiment_id, start_ms, tags).info.run_id
    register.run(case.config)
    assert {name: client.get_run(run_id).info.status for name, run_id in runs.items()} == {
        "killed": "KILLED",
        "live": "RUNNING",
        "elsewhere": "RUNNING",
        "elsewhere, long ago": "KILLED",
    }
    assert client.get_run(case.first.run_id).data.tags[register.PROCESS_TAG] == this_process()


def test_another_policy_takes_the_alias_and_the_old_one_can_take_it_back(case, client):
    overrides = [f"run.root={case.config.run.root}", "run.name=two"]
    config = load_config(overrides)
    bundle_of(0.8).save(RunLayout.of(config).policy)
    second = register.run(config)
    assert second.version != case.first.version
    assert str(client.get_model_version_by_alias("tradewind-router", "champion").version) == second.version
    register.run(case.config)
    assert (
        str(client.get_model_version_by_alias("tradewind-router", "champion").version) == case.first.version
    )


def test_a_rollback_brings_the_champion_before_this_one_back(case, client):
    def aliases() -> dict[str, str]:
        return {k: str(v) for k, v in client.get_registered_model("tradewind-router").aliases.items()}

    overrides = [f"run.root={case.config.run.root}", "run.name=three"]
    config = load_config(overrides)
    bundle_of(0.7).save(RunLayout.of(config).policy)
    before = aliases()["champion"]
    third = register.run(config).version
    assert aliases() == {"champion": third, "previous": before}
    assert rollback.run(config).model_version == before
    assert aliases() == {"champion": before, "previous": third}


def test_a_rollback_without_a_registered_model_says_so(tmp_path):
    with pytest.raises(InputError, match="register a policy first"):
        rollback.run(load_config([f"run.root={tmp_path}"]))
