"""Every trial in MLflow under one parent run, and a progress bar.

Ray's own MLflow callback opens a database transaction per metric and opens new runs when a search is resumed. Here
a batch is one transaction, and a trial finds its run by a tag.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from ray import tune

from pipeline.console import progress
from pipeline.search.space import SearchSpace

TRIAL_TAG = "tune.trial_id"
PARENT_TAG = "mlflow.parentRunId"
TRACKED = (
    "reward",
    "epoch_reward",
    "cost_rise",
    "largest_share",
    "loss",
    "train_reward",
    "entropy",
    "setup_s",
)
"""Metrics that go to MLflow, of the dozens in a result."""

FLUSH_S = 5.0
"""A trial's metrics wait at most that long."""


class TrialTracker(tune.Callback):
    """Writes a child run per trial; pickled with the experiment, so handles are opened where they are used.

    Args:
        uri: tracking URI.
        experiment_id: MLflow experiment.
        parent_run_id: run above the trials'.
        space: turns points into values.
    """

    def __init__(self, uri: str, experiment_id: str, parent_run_id: str, space: SearchSpace) -> None:
        self._uri, self._experiment_id, self._parent_run_id = uri, experiment_id, parent_run_id
        self._space = space
        self._forget()

    def _forget(self) -> None:
        self._client: MlflowClient | None = None
        self._runs: dict[str, str] = {}
        self._logged_epoch: dict[str, int] = {}
        self._waiting: dict[str, list[Metric]] = {}
        self._flushed_at: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        named = ("_uri", "_experiment_id", "_parent_run_id", "_space")
        return {name: self.__dict__[name] for name in named}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Open the trial's run, or find the one of before an interruption."""
        self._run_of(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep the result's metrics; write them when enough time has passed."""
        run_id, epoch = self._run_of(trial), int(result["epoch"])
        # Epochs after the last checkpoint are repeated by a resumed search, with the same outcome.
        if epoch > self._logged_epoch[run_id]:
            self._logged_epoch[run_id] = epoch
            stamp = int(time.time() * 1000)
            numbers = {"epoch": float(epoch), **{name: result.get(name) for name in TRACKED}}
            self._waiting.setdefault(run_id, []).extend(
                Metric(name, float(value), stamp, epoch)
                for name, value in numbers.items()
                if value is not None and math.isfinite(value)
            )
        if time.monotonic() - self._flushed_at.get(run_id, 0.0) > FLUSH_S:
            self._flush(run_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close the trial's run."""
        self._close(trial, "FINISHED")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close the run of a trial that failed."""
        self._close(trial, "FAILED")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Write what still waits; close runs of trials that a kill made Tune forget."""
        for run_id in list(self._waiting):
            self._flush(run_id)
        known = {trial.trial_id for trial in trials}
        for run in self._children():
            if run.data.tags.get(TRIAL_TAG) not in known and run.info.status == "RUNNING":
                self._open().set_terminated(run.info.run_id, "KILLED")

    def _open(self) -> MlflowClient:
        if self._client is None:
            self._client = MlflowClient(tracking_uri=self._uri)
        return self._client

    def _children(self, trial_id: str | None = None) -> list[Any]:
        condition = f"tags.`{PARENT_TAG}` = '{self._parent_run_id}'"
        if trial_id is not None:
            condition += f" and tags.`{TRIAL_TAG}` = '{trial_id}'"
        return list(self._open().search_runs([self._experiment_id], condition, max_results=1000))

    def _run_of(self, trial: Any) -> str:
        if trial.trial_id in self._runs:
            return self._runs[trial.trial_id]
        client = self._open()
        found = self._children(trial.trial_id)
        if found:
            run_id = found[0].info.run_id
            client.update_run(run_id, status="RUNNING")
            self._logged_epoch[run_id] = int(found[0].data.metrics.get("epoch", 0))
        else:
            tags = {PARENT_TAG: self._parent_run_id, TRIAL_TAG: trial.trial_id}
            run_id = client.create_run(
                self._experiment_id, run_name=f"trial-{trial.trial_id}", tags=tags
            ).info.run_id
            values = self._space.values_of(trial.config)
            client.log_batch(run_id, params=[Param(k, json.dumps(v)) for k, v in values.items()])
            self._logged_epoch[run_id] = 0
        self._runs[trial.trial_id] = run_id
        return run_id

    def _flush(self, run_id: str) -> None:
        self._flushed_at[run_id] = time.monotonic()
        if metrics := self._waiting.pop(run_id, []):
            self._open().log_batch(run_id, metrics=metrics)

    def _close(self, trial: Any, status: str) -> None:
        run_id = self._run_of(trial)
        self._flush(run_id)
        tags = [RunTag("best_epoch", str(trial.last_result.get("best_epoch", "")))]
        self._open().log_batch(run_id, tags=tags)
        self._open().set_terminated(run_id, status)


class SearchProgress(tune.Callback):
    """A bar of finished trials with the best reward so far.

    Args:
        num_samples: trials in all.
    """

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples
        self._bar: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_num_samples": self._num_samples, "_bar": None}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Show the best reward and the epochs done."""
        self._show(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count the trial."""
        self._show(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count the trial."""
        self._show(trials)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Leave the finished bar."""
        self._show(trials)
        self._bar.close()

    def _show(self, trials: list[Any]) -> None:
        if self._bar is None:
            self._bar = progress(self._num_samples, "tune", unit="trial")
        results = [trial.last_result or {} for trial in trials]
        best = max((r["reward"] for r in results if "reward" in r), default=math.nan)
        epochs = sum(int(r.get("epoch", 0)) for r in results)
        self._bar.set_postfix(validation_reward=f"{best:.4f}", epochs=epochs, refresh=False)
        self._bar.update(sum(trial.is_finished() for trial in trials) - self._bar.n)
