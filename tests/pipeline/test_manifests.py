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
from mlflow.server.security_utils import is_allowed_host_header
from ray.serve.schema import ServeDeploySchema

from pipeline.__main__ import STAGES
from pipeline.compose import load_config, record_config
from pipeline.embed import store_path
from pipeline.encode import pool_options
from pipeline.lock import read_lock
from serve.journal.export import EVENTS, PROMPTS
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


def test_no_cluster_and_endpoint_share_the_name_of_their_head_service():
    """KubeRay names a cluster's head service, and an endpoint's, ``NAME-head-svc``."""
    names = [d["metadata"]["name"] for d in DOCUMENTS if d["kind"] in ("RayCluster", "RayService")]
    assert len(names) == len(set(names))


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


JOBS = {d["metadata"]["name"]: d for d in DOCUMENTS if d["kind"] in ("RayJob", "RayCronJob")}
SHARED = "/shared"


def commands(job, disk):
    """Yield stage and overrides of what a job runs, with ``disk`` in the place of the volume that all nodes share."""
    (entrypoint,) = found(JOBS[job], "entrypoint")
    name = re.match(r"NAME=loop-\$\(date -u \+%F\)\s+&&\s+", entrypoint)
    rest = entrypoint[name.end() :].replace("$NAME", "loop-2030-01-31") if name else entrypoint
    for command in rest.split("&&"):
        python, m, pipeline, stage, *overrides = shlex.split(command)
        assert (python, m, pipeline) == ("python", "-m", "pipeline")
        yield stage, [word.replace(f"={SHARED}/", f"={disk}/") for word in overrides]


def accepted(job, disk):
    """Return the configurations of a job's commands, each recorded where the next ones look for it."""
    configs = []
    for stage, overrides in commands(job, disk):
        assert stage in STAGES
        config = load_config(overrides)
        record_config(config, overrides)
        configs.append(config)
    return configs


@pytest.mark.parametrize("job", JOBS)
def test_what_a_job_runs_is_accepted_and_writes_where_all_nodes_see_it(job, tmp_path, monkeypatch):
    """The default root is relative: on a cluster that is the disk of the job's own pod, and no other's."""
    for folder in ("shared", "pod"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "pod")
    shared = str(tmp_path / "shared")
    if job == "tradewind-tune":  # searches on the other job's run
        accepted("tradewind-run", shared)
    for config in accepted(job, shared):
        assert str(config.run.path).startswith(f"{shared}/")
        store = store_path(config)
        assert "://" in store or store.startswith(f"{shared}/")
        assert config.tracking.uri == "http://tradewind-mlflow:5000"
        assert config.cluster.address == "auto"


@pytest.mark.parametrize("job", ["tradewind-run", "tradewind-loop"])
def test_encoders_of_a_job_grow_to_fill_its_workers(job, tmp_path):
    (workers,) = found(JOBS[job], "workerGroupSpecs")
    (container,) = found(workers, "containers")
    cpus = int(container[0]["resources"]["requests"]["cpu"])
    config = accepted(job, str(tmp_path))[-1]
    assert config.encoder.num_actors == workers[0]["replicas"] * cpus
    assert config.encoder.max_actors == workers[0]["maxReplicas"] * cpus
    now = pool_options(config.encoder, {"CPU": cpus}, n_blocks=1000)["compute"]
    assert (now.min_size, now.max_size) == (config.encoder.num_actors, config.encoder.max_actors)


def test_all_workers_of_a_search_are_there_when_it_counts_them():
    (workers,) = found(JOBS["tradewind-tune"], "workerGroupSpecs")
    assert [group["replicas"] for group in workers] == [group["maxReplicas"] for group in workers]


def endpoint():
    (service,) = (d for d in DOCUMENTS if d["kind"] == "RayService")
    (config,) = found(service, "serveConfigV2")
    return service, ServeSettings.parse(yaml.safe_load(config)["applications"][0]["args"])


def test_the_nightly_loop_reads_what_the_endpoint_exports(tmp_path):
    _, settings = endpoint()
    ingest = accepted("tradewind-loop", str(tmp_path))[0]
    folder = settings.log.export_directory
    assert (ingest.data.log, ingest.data.prompts) == (f"{folder}/{EVENTS}", f"{folder}/{PROMPTS}")
    assert settings.log.directory
    assert settings.log.export
    assert settings.log.prompts
    assert settings.routing.exploration.kind != "none"


def test_the_endpoints_replicas_share_one_node_and_its_disk():
    """Feedback is known on the node that decided; the journal must not lie on a network file system."""
    service, settings = endpoint()
    (group,) = next(found(service, "workerGroupSpecs"))
    pod = group["template"]["spec"]
    assert group["replicas"] == group["maxReplicas"] == 1
    cpus = int(pod["containers"][0]["resources"]["requests"]["cpu"])
    assert settings.replicas_at_most * settings.num_cpus_per_replica <= cpus
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    volume = next(name for path, name in mounts.items() if settings.log.directory.startswith(f"{path}/"))
    claim = next(v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if v["name"] == volume)
    modes = next(
        d["spec"]["accessModes"]
        for d in DOCUMENTS
        if (d["kind"], d["metadata"]["name"]) == ("PersistentVolumeClaim", claim)
    )
    assert modes == ["ReadWriteOnce"]
    assert service["spec"]["upgradeStrategy"] == {"type": "None"}, "two clusters cannot mount it"


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("tradewind-mlflow:5000", True),
        ("tradewind-mlflow.default.svc.cluster.local:5000", True),
        ("localhost:5001", True),
        ("127.0.0.1:5000", True),
        ("tradewind-mlflow-db:5432", False),
        ("example.com", False),
    ],
)
def test_the_tracker_answers_to_its_names(host, allowed):
    text = (CLUSTER / "kuberay" / "mlflow.yaml").read_text()
    hosts = re.search(r"--allowed-hosts '([^']+)'", text).group(1).split(",")
    assert is_allowed_host_header(hosts, host) is allowed


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


NOT_LOCKED = {"boto3", "psycopg2-binary"}
"""The tracker's own drivers, which nothing of this project imports."""


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_pin_what_was_tested(path):
    text = path.read_text()
    base = re.search(r"^FROM (\S+)$", text, re.MULTILINE)
    assert base
    assert re.fullmatch(
        rf"rayproject/ray:{re.escape(ray.__version__)}-py311-[cg]pu|python:3\.11\.\d+-slim", base.group(1)
    )
    locked = dict(line.split("==") for line in read_lock())
    pins = dict(re.findall(r"([\w-]+)==([\w.]+)", text))
    assert set(pins) - set(locked) <= NOT_LOCKED
    assert {name: version for name, version in pins.items() if name not in NOT_LOCKED} == {
        name: locked[name] for name in pins if name not in NOT_LOCKED
    }
    if "boto3" in pins:  # needs a botocore of its own minor version, not older
        *minor, patch = map(int, pins["boto3"].split("."))
        *there, newest = map(int, locked["botocore"].split("."))
        assert minor == there
        assert patch <= newest
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
