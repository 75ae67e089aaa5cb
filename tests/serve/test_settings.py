from __future__ import annotations

import pytest
import yaml

from pipeline.compose import CONF_DIR, load_config
from pipeline.serve import settings as stage_settings
from policies.errors import InputError
from serve.settings import ServeSettings


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "bundle"),
        ({"bundle": "x", "decison": "greedy"}, "decison"),
        ({"bundle": "x", "decision": "best"}, "decision='best'"),
        ({"bundle": "x", "num_replicas": 0}, "num_replicas=0"),
        ({"bundle": "x", "batch_wait_s": -1}, "batch_wait_s=-1"),
    ],
)
def test_bad_settings_name_the_key(values, named):
    with pytest.raises(InputError, match=named):
        ServeSettings.parse(values)


@pytest.mark.parametrize("path", sorted((CONF_DIR / "serve" / "deploy").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_serve_config_files_are_valid(path):
    from ray.serve.schema import ServeDeploySchema

    deploy = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    for application in deploy.applications:
        ServeSettings.parse(application.args)


def test_the_stage_passes_its_configuration_on(tmp_path):
    config = load_config([f"run.root={tmp_path}", "serve.num_replicas=2", "tracking.alias=canary"])
    made = stage_settings(config)
    assert (made.num_replicas, made.alias) == (2, "canary")
    assert made.tracking_uri == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_bundle_wins_over_the_registry(tmp_path):
    config = load_config([f"run.root={tmp_path}", f"serve.bundle={tmp_path / 'policy'}"])
    assert stage_settings(config).bundle == str(tmp_path / "policy")
