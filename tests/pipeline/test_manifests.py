"""Every manifest of conf/cluster against the schema of its kind, and what it runs against the program."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import ray.autoscaler
import yaml
from ray.serve.schema import ServeDeploySchema

from pipeline.__main__ import STAGES
from pipeline.compose import load_config, record_config
from pipeline.lock import read_lock
from serve.settings import ServeSettings
from tests.pipeline import kuberay

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "conf" / "cluster"
KUBERNETES = "1.37.0"

MANIFESTS = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}-{document['metadata']['name']}")
    for path in sorted((CLUSTER / "kuberay").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
DOCKERFILES = sorted((CLUSTER / "docker").iterdir())
UP_FILES = sorted((CLUSTER / "ray_up").glob("*.yaml"))
SERVE_FILES = sorted((ROOT / "conf" / "serve" / "deploy").glob("*.yaml"))


def found(node, key):
    """Yield every value of a key, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from found(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from found(value, key)


DOCUMENTS: list[dict[str, Any]] = [parameter.values[0] for parameter in MANIFESTS]  # type: ignore[misc]


def test_every_scenario_is_there():
    assert {"RayCluster", "RayJob", "RayCronJob", "RayService"} <= {d["kind"] for d in DOCUMENTS}


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_manifest_follows_the_schema_of_its_kind(manifest):
    if manifest["apiVersion"].startswith("ray.io/"):
        jsonschema.validate(manifest, kuberay.resource(manifest["kind"]))
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    "template", [template for document in DOCUMENTS for template in found(document.get("spec"), "template")]
)
def test_pods_follow_kubernetes_own_schema(template):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "checked"}, "spec": template["spec"]}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("change", [{"headGroupSpecs": {}}, {"rayVersion": 2.6}, {"headGroupSpec": {}}])
def test_a_wrong_field_would_be_noticed(change):
    manifest = next(d for d in DOCUMENTS if d["kind"] == "RayCluster")
    wrong = {**manifest, "spec": {**manifest["spec"], **change}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, kuberay.resource("RayCluster"))


def test_claims_secrets_and_configured_services_exist():
    names = {(d["kind"], d["metadata"]["name"]) for d in DOCUMENTS}
    for claim in found(DOCUMENTS, "claimName"):
        assert ("PersistentVolumeClaim", claim) in names
    for reference in [*found(DOCUMENTS, "secretRef"), *found(DOCUMENTS, "secretKeyRef")]:
        assert ("Secret", reference["name"]) in names
    text = json.dumps(DOCUMENTS)
    for host in {*re.findall(r"http://([\w-]+):", text), *re.findall(r"([\w-]+):6379", text)}:
        assert ("Service", host) in names


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d["kind"] in ("RayJob", "RayCronJob")])
def test_what_a_job_runs_is_accepted_by_the_program(document, tmp_path):
    (entrypoint,) = found(document, "entrypoint")
    started = []
    for command in entrypoint.split("&&"):
        words = shlex.split(command)
        if words[:3] != ["python", "-m", "pipeline"]:
            assert re.fullmatch(r"RUN=/shared/runs/loop-\$\(date -u \+%F\)", command.strip())
            continue
        assert words[3] in STAGES
        overrides = []
        for word in words[4:]:
            key = word.partition("=")[0]
            if key == "run":  # exists by the time that the command runs
                record_config(load_config([f"run.dir={tmp_path}"]), [f"run.dir={tmp_path}"])
                word = f"run={tmp_path}"
            overrides.append(word.replace("$RUN", str(tmp_path)) if key != "run" else word)
        load_config(overrides)
        started.append(words[3])
    assert started


SERVE_CONFIGS = [yaml.safe_load(text) for text in found(DOCUMENTS, "serveConfigV2")] + [
    yaml.safe_load(path.read_text()) for path in SERVE_FILES
]


@pytest.mark.parametrize("config", SERVE_CONFIGS)
def test_serve_configs_follow_the_schemas_of_ray_serve_and_of_the_endpoint(config):
    checked = ServeDeploySchema.model_validate(config)
    (application,) = checked.applications
    assert application.import_path == "serve.app:build"
    ServeSettings.parse(application.args)


@pytest.mark.parametrize("path", UP_FILES, ids=lambda path: path.stem)
def test_cluster_launcher_files_follow_rays_schema(path):
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = yaml.safe_load(path.read_text())
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_pin_what_was_tested(path):
    text = path.read_text()
    base = re.search(r"^FROM (\S+)$", text, re.MULTILINE)
    assert base
    assert base.group(1).startswith((f"rayproject/ray:{ray.__version__}-py311-", "python:3.11-"))
    locked = dict(line.split("==") for line in read_lock())
    pins = dict(re.findall(r"([\w-]+)==([\w.]+)", text))
    assert {name: version for name, version in pins.items() if name in locked} == {
        name: locked[name] for name in pins if name in locked
    }
    for source in re.findall(r"^COPY (?:--chown=\w+ )?(.+) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_linter_of_dockerfiles_has_nothing_to_say(path):
    linter = Path(sys.executable).with_name("hadolint")
    said = subprocess.run([linter, "--no-color", path], capture_output=True, text=True, check=False)
    assert (said.stdout + said.stderr, said.returncode) == ("", 0)


def test_manifests_name_the_installed_ray():
    assert set(found(DOCUMENTS, "rayVersion")) == {ray.__version__}
    images = {image for image in found(DOCUMENTS, "image") if "tradewind:" in image}
    built = {re.search(r"-t REGISTRY/(\S+) ", path.read_text()).group(1) for path in DOCKERFILES}
    assert {image.removeprefix("REGISTRY/") for image in images} <= built
