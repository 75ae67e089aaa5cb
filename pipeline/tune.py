"""Stage `tune`: search the learner's settings with Ray Tune, retrain the best, register it as challenger.

Trials are compared by what their greedy decisions earn on the validation prompts over the dial, at the run's own
cost scale whatever scale they were trained with. Test and held-out prompts are never read.
"""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from ray import tune
from ray.tune.logger import JsonLoggerCallback

from pipeline.cluster import ray_session
from pipeline.comparisons import JOINED_COMPARISONS, RunComparisons, training_comparisons, write_joined
from pipeline.compose import SEARCH_FOLDER
from pipeline.config import TradewindConfig
from pipeline.console import say, verbose
from pipeline.cost_scale import reference_tau_usd, scale_costs_usd
from pipeline.layout import RunLayout
from pipeline.provenance import refuse_training
from pipeline.register import open_experiment
from pipeline.scratch import scratch
from pipeline.search.challenger import retrain
from pipeline.search.learners import searchable
from pipeline.search.results import (
    TrialRecord,
    choose,
    command_line,
    read_records,
    records_of,
    write_results,
)
from pipeline.search.space import SearchSpace, with_values
from pipeline.search.spec import SearchFolder, SearchSpec, search_space
from pipeline.search.strategy import checkpoints, scheduler, searcher
from pipeline.search.tracking import SearchProgress, TrialTracker
from pipeline.search.trial import SEARCH, SearchTrial
from pipeline.splits import TRAIN, VALIDATION
from pipeline.tracker import tracking_uri
from pipeline.train import load_training_data
from pipeline.training import content_hash
from policies.errors import InputError
from policies.rllib.columns import training_columns, write_columns

TAU_QUANTILE = "train.tau_quantile"
PARTS = {split: (split,) for split in (TRAIN, VALIDATION)}
MAX_FAILURES = 3
"""Times that a trial whose process or node was lost goes on from its last checkpoint."""


def run(config: TradewindConfig) -> list[TrialRecord]:
    """Search, or go on with an interrupted search; return all trials, best first.

    Writes ``tune_results.json`` into the run's folder and, unless ``tune.retrain`` is false, the retrained
    winner into ``tune/challenger`` and the registry.

    Raises:
        InputError: bad settings or data, an unfinished search where a new one was asked for, or another search
            than the one to resume.
        RuntimeError: no trial finished an epoch.
    """
    with _quiet():
        return _run(config)


def _run(config: TradewindConfig) -> list[TrialRecord]:
    layout = RunLayout.of(config)
    refuse_training(layout)
    folder = SearchFolder(layout.root / SEARCH_FOLDER)
    spec = _resumed(config, folder) if config.tune.resume is not None else _started(config, folder)
    base = spec.configuration()
    space = search_space(base)
    started = time.perf_counter()
    with ray_session(config):
        if folder.results.exists():
            records = read_records(folder.results)
        else:
            _check_resources(base)
            grid = _tuner(base, folder, space, spec).fit()
            records = records_of(grid, space)
        best, within = choose(records, base.tune)
        body = _summary(base, spec, records, best, within, time.perf_counter() - started)
        write_results(folder.results, body, records)
        _finish_parent(config, spec, body, best)
        _report(config, body, best, within)
        if base.tune.retrain:
            registered = retrain(config, spec, folder, best)
            say(
                f"tune: retrained on train and validation prompts, {registered.name} version "
                f"{registered.version} is '{registered.alias}' -> {folder.challenger}"
            )
    shutil.rmtree(folder.arrays, ignore_errors=True)
    return records


def _started(config: TradewindConfig, folder: SearchFolder) -> SearchSpec:
    """Write what trials share; nothing is started before all of it is checked."""
    layout = RunLayout.of(config)
    space = search_space(config)
    if folder.spec.exists() and not folder.results.exists():
        raise InputError(
            f"{folder.root}: holds an unfinished search; `python -m pipeline tune resume={folder.root}` goes on "
            "with it, deleting the folder gives it up"
        )
    layout.need(layout.splits, "ingest")
    with scratch(layout, "tune") as vectors:
        return _write_shared(config, folder, space, vectors)


def _write_shared(
    config: TradewindConfig, folder: SearchFolder, space: SearchSpace, vectors: Path
) -> SearchSpec:
    parts = load_training_data(RunLayout.of(config), config, PARTS, vectors)
    train, validation = parts[TRAIN], parts[VALIDATION]
    reference = reference_tau_usd(config, train)
    compared = _comparisons(config)
    joined = training_comparisons(compared, train)  # checked before an earlier search is given up
    if TAU_QUANTILE in space.dimensions and config.train.tau_quantile is None:
        # The configured scale as a quantile, so that the configuration as it is can be the first trial.
        costs_usd = scale_costs_usd(train.scores, train.costs_usd)
        quantile = 0.95 if config.train.tau_usd is None else float(np.mean(costs_usd <= reference))
        config = with_values(config, {TAU_QUANTILE: max(quantile, 1e-3)})
    shutil.rmtree(folder.root, ignore_errors=True)
    folder.results.unlink(missing_ok=True)
    folder.root.mkdir(parents=True)
    staging = folder.root / "arrays.tmp"
    write_columns(staging / TRAIN, training_columns(train))
    write_columns(staging / VALIDATION, training_columns(validation))
    if joined is not None:
        write_joined(staging / JOINED_COMPARISONS, joined)
    staging.replace(folder.arrays)
    spec = SearchSpec(
        config=config.plain(),
        models=tuple(asdict(model) for model in train.pool.specs),
        embedding_dim=train.embeddings.shape[1],
        reference_tau_usd=reference,
        train_sha256=content_hash(train),
        validation_sha256=content_hash(validation),
        parent_run_id=_open_parent(config, train_rows=len(train), validation_rows=len(validation)),
        comparisons_sha256=None if compared is None else compared.sha256,
    )
    spec.write(folder.spec)
    return spec


def _resumed(config: TradewindConfig, folder: SearchFolder) -> SearchSpec:
    given = Path(str(config.tune.resume))
    if given.resolve() != folder.root.resolve():
        raise InputError(
            f"tune.resume={given}: not the search of this run; allowed: {folder.root} "
            "(the short form resume=PATH finds the run by itself)"
        )
    spec = SearchSpec.read(folder.spec)
    layout = RunLayout.of(config)
    with scratch(layout, "tune") as vectors:
        parts = load_training_data(layout, spec.configuration(), PARTS, vectors)
        for split, expected in ((TRAIN, spec.train_sha256), (VALIDATION, spec.validation_sha256)):
            if content_hash(parts[split]) != expected:
                raise InputError(
                    f"tune.resume={given}: the {split} data is no longer what the search began with; start anew"
                )
    compared = _comparisons(spec.configuration())
    if (None if compared is None else compared.sha256) != spec.comparisons_sha256:
        raise InputError(
            f"tune.resume={given}: the comparisons are no longer what the search began with; start anew"
        )
    if not folder.arrays.exists() and not folder.results.exists():
        raise InputError(f"tune.resume={given}: {folder.arrays} is missing; start anew")
    return spec


def _comparisons(config: TradewindConfig) -> RunComparisons | None:
    """Return the run's comparisons where the policy that is searched learns from them."""
    return (
        RunComparisons.of(RunLayout.of(config)) if searchable(config.policy.name).takes_comparisons else None
    )


def _tuner(config: TradewindConfig, folder: SearchFolder, space: SearchSpace, spec: SearchSpec) -> tune.Tuner:
    if tune.Tuner.can_restore(str(folder.trials)) and any(folder.trials.glob("experiment_state-*.json")):
        return tune.Tuner.restore(str(folder.trials), trainable=SearchTrial, resume_unfinished=True)
    settings = config.tune
    param_space: dict[str, Any] = {SEARCH: str(folder.root)}
    if settings.searcher == "random":
        param_space |= space.tune_domains()
    pb2 = settings.scheduler == "pb2"
    return tune.Tuner(
        SearchTrial,
        param_space=param_space,
        tune_config=tune.TuneConfig(
            num_samples=settings.num_samples,
            search_alg=searcher(config, space),
            scheduler=scheduler(config, space, folder.scheduler),
            # A population must wait for its slower members; proposals are better the fewer are pending.
            max_concurrent_trials=None if pb2 else _slots(config),
            time_budget_s=settings.time_budget_s,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=folder.trials.name,
            storage_path=str(folder.root),
            verbose=1 if verbose() else 0,
            callbacks=[
                JsonLoggerCallback(),
                TrialTracker(tracking_uri(config), _experiment(config), spec.parent_run_id, space),
                SearchProgress(settings.num_samples),
            ],
            checkpoint_config=checkpoints(config),
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )


def _trial_name(trial: Any) -> str:
    return str(trial.trial_id)


def _slots(config: TradewindConfig) -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1) / config.tune.cpus_per_trial + 1e-9))


def _check_resources(config: TradewindConfig) -> None:
    cpus = ray.cluster_resources().get("CPU", 0)
    if config.tune.cpus_per_trial > cpus:
        raise InputError(
            f"tune.cpus_per_trial={config.tune.cpus_per_trial}: the cluster has {cpus:g} CPUs; no trial could start"
        )


def _experiment(config: TradewindConfig) -> str:
    uri = tracking_uri(config)
    try:
        return open_experiment(MlflowClient(tracking_uri=uri, registry_uri=uri), config)
    except MlflowException as error:
        raise InputError(f"tracking.uri={uri}: {error.message}") from None


def _open_parent(config: TradewindConfig, **rows: int) -> str:
    client = MlflowClient(tracking_uri=tracking_uri(config))
    run_id = client.create_run(_experiment(config), run_name=f"{config.run.name}-tune").info.run_id
    settings = {f"tune.{key}": value for key, value in config.plain()["tune"].items()}
    fixed = {"policy.name": config.policy.name, "train.mode": config.train.mode, **rows}
    client.log_batch(run_id, params=[Param(k, str(v)) for k, v in {**settings, **fixed}.items()])
    return str(run_id)


def _finish_parent(
    config: TradewindConfig, spec: SearchSpec, body: dict[str, Any], best: TrialRecord
) -> None:
    client = MlflowClient(tracking_uri=tracking_uri(config))
    stamp = int(time.time() * 1000)
    numbers = {"best_reward": best.reward, "default_reward": body["default_reward"], "wall_s": body["wall_s"]}
    client.log_batch(
        spec.parent_run_id,
        metrics=[Metric(k, float(v), stamp, 0) for k, v in numbers.items() if v is not None],
    )
    client.log_artifact(spec.parent_run_id, str(SearchFolder(config.run.path / SEARCH_FOLDER).results))
    client.set_terminated(spec.parent_run_id, "FINISHED")


def _summary(
    config: TradewindConfig,
    spec: SearchSpec,
    records: list[TrialRecord],
    best: TrialRecord,
    within: bool,
    wall_s: float,
) -> dict[str, Any]:
    defaults = search_space(config)
    first = defaults.values_of(defaults.point_of(config))
    default = next((r for r in records if r.values == first), None)
    setups = [record.setup_s for record in records if record.setup_s is not None]
    return {
        "objective": "mean validation reward of greedy decisions over the dial at reference_tau_usd",
        "reference_tau_usd": spec.reference_tau_usd,
        "train_sha256": spec.train_sha256,
        "validation_sha256": spec.validation_sha256,
        "best": asdict(best),
        "best_within_limits": within,
        "best_command": command_line(config.run.path, best),
        "default_reward": default.reward if default else None,
        "default_epochs": default.epochs if default else None,
        "wall_s": round(wall_s, 2),
        "setup_s": {"first": max(setups), "median": statistics.median(setups)} if setups else None,
    }


def _report(config: TradewindConfig, body: dict[str, Any], best: TrialRecord, within: bool) -> None:
    trials = f"best of tune_results.json: validation reward {best.reward:.4f} (epoch {best.best_epoch})"
    if body["default_reward"] is not None:
        trials += f", defaults {body['default_reward']:.4f}"
    trials += f"; cost rise {best.cost_rise:.4f}, largest share {best.largest_share:.2f}"
    say(f"tune: {trials}, {body['wall_s']:.0f} s -> {config.run.path / 'tune_results.json'}")
    if not within:
        say(
            "tune: no trial stays within tune.max_cost_rise and tune.max_largest_share; this is the best of all"
        )
    say(body["best_command"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Tune and Optuna to results; Ctrl-C reaches the caller, a resumed search goes on from the last snapshot."""
    settings = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "5",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    before = {name: os.environ.get(name) for name in settings}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if not verbose():
        # Set here because these packages set their own levels when they are imported.
        for name in ("ray.rllib", "ray.tune", "mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.INFO if verbose() else optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            for name, earlier in before.items():
                if earlier is None:
                    os.environ.pop(name, None)
