"""The Serve config files: valid for Ray, and of settings that exist."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serve import app
from serve.app import build
from serve.settings import ServeSettings
from serve.settings.scaling import ScalingSettings

FILES = sorted((Path(__file__).parents[2] / "conf" / "serve" / "deploy").glob("*.yaml"))


def test_there_are_files_for_a_laptop_and_for_production():
    assert {path.name for path in FILES} >= {"local.yaml", "production.yaml"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ray_and_the_endpoint_accept_a_config_file(path):
    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    for application in schema.applications:
        module, _, name = application.import_path.partition(":")
        assert (module, name) == (app.__name__, build.__name__)
        assert inspect.isfunction(build)
        ServeSettings.parse(application.args)


def deployments(arguments: dict) -> dict:
    bound = build(arguments)._bound_deployment
    found = {bound.name: bound}
    for argument in bound.init_args:
        if hasattr(argument, "_bound_deployment"):
            found[argument._bound_deployment.name] = argument._bound_deployment
    return found


def test_one_replica_needs_nothing_in_common():
    assert set(deployments({"bundle": "x"})) == {"router"}


@pytest.mark.parametrize("more", [{"num_replicas": 2}, {"scaling": {"max_replicas": 3}}])
def test_several_replicas_share_one_process(more):
    found = deployments({"bundle": "x", **more})
    assert set(found) == {"router", "control"}
    assert found["control"].num_replicas == 1


def test_autoscaling_starts_at_the_configured_number():
    scaling = deployments({"bundle": "x", "num_replicas": 2, "scaling": {"max_replicas": 5}})["router"]
    config = scaling._deployment_config.autoscaling_config
    assert (config.min_replicas, config.max_replicas) == (2, 5)


def test_a_replica_refuses_before_ray_makes_requests_wait():
    router = deployments({"bundle": "x", "max_ongoing_requests": 10})["router"]
    assert router.max_ongoing_requests > 10
    assert router.max_queued_requests == ScalingSettings().max_queued_requests
