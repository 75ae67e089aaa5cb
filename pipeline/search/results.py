"""Which trial wins, and what is kept of all of them."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ray.tune import Result, ResultGrid
from ray.tune.result import EXPR_PARAM_FILE

from pipeline.config.tune import TuneConfig
from pipeline.search.space import SearchSpace, override_text


@dataclass(frozen=True)
class TrialRecord:
    """One trial, at the best of its epochs.

    Attributes:
        trial_id: of Ray Tune and of the MLflow run's tag.
        values: what was tried; of a PB2 trial, what it ended with.
        reward: validation reward at the reference tau; None when no epoch was finished.
        cost_rise: see :class:`pipeline.search.objective.Judgement`.
        largest_share: likewise.
        best_epoch: epoch of these figures.
        epochs: epochs trained.
        usable: whether the policy of ``best_epoch`` is one that training would return; false for a trial that
            was stopped before the end of a learner that keeps its last epoch.
        setup_s: start-up time of the trial in its process, seconds.
        wall_s: time spent training and judging, seconds.
        schedule: values by epoch; more than one entry where PB2 changed them.
        error: last line of what stopped a failed trial, else empty.
    """

    trial_id: str
    values: dict[str, Any]
    reward: float | None = None
    cost_rise: float | None = None
    largest_share: float | None = None
    best_epoch: int = 0
    epochs: int = 0
    usable: bool = True
    setup_s: float | None = None
    wall_s: float = 0.0
    schedule: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""

    def overrides(self) -> list[str]:
        """Return the values as ``key=value``."""
        return [f"{key}={override_text(value)}" for key, value in self.values.items()]


def records_of(grid: ResultGrid, space: SearchSpace) -> list[TrialRecord]:
    """Return all trials, the best reward first, failed ones last."""
    records = []
    for result in grid:
        metrics = result.metrics or {}
        trained = "reward" in metrics
        records.append(
            TrialRecord(
                trial_id=str(metrics.get("trial_id", Path(result.path).name)),
                values=space.values_of(_point_of(result)),
                **{name: metrics.get(name) for name in ("reward", "cost_rise", "largest_share", "setup_s")},
                best_epoch=int(metrics["best_epoch"]) if trained else 0,
                epochs=int(metrics["epoch"]) if trained else 0,
                usable=bool(metrics.get("usable", False)),
                wall_s=float(metrics.get("time_total_s", 0.0)),
                schedule=metrics.get("schedule", []),
                error=str(result.error).strip().splitlines()[-1] if result.error else "",
            )
        )
    return sorted(records, key=lambda r: -math.inf if r.reward is None else r.reward, reverse=True)


def _point_of(result: Result) -> dict[str, Any]:
    if result.config is not None:
        return result.config
    # A trial that failed in its first epoch has no result that would hold its point.
    return json.loads((Path(result.path) / EXPR_PARAM_FILE).read_text())


def choose(records: list[TrialRecord], limits: TuneConfig) -> tuple[TrialRecord, bool]:
    """Return the best usable trial within the limits on cost rise and largest share, and whether there was one.

    Without one within them, the best usable trial; when time ran out before any was usable, the best of all.

    Raises:
        RuntimeError: no trial finished an epoch.
    """
    judged = [record for record in records if record.reward is not None]
    if not judged:
        reasons = sorted({record.error for record in records if record.error})
        raise RuntimeError(f"no trial finished an epoch: {'; '.join(reasons) or 'out of time'}")
    judged = [record for record in judged if record.usable] or judged
    for record in judged:
        assert record.cost_rise is not None
        assert record.largest_share is not None
        if record.cost_rise <= limits.max_cost_rise and record.largest_share <= limits.max_largest_share:
            return record, True
    return judged[0], False


def command_line(run_dir: Path, best: TrialRecord) -> str:
    """Return the command that trains the best values."""
    words = ["python", "-m", "pipeline", "train", f"run={run_dir}", *best.overrides()]
    return " ".join(shlex.quote(word) for word in words)


def write_results(path: Path, body: dict[str, Any], records: list[TrialRecord]) -> None:
    """Write the results file, whole or not at all."""
    staging = path.with_name(path.name + ".tmp")
    staging.write_text(json.dumps({**body, "trials": [asdict(r) for r in records]}, indent=2) + "\n")
    staging.replace(path)


def read_records(path: Path) -> list[TrialRecord]:
    """Read the trials of a results file."""
    return [TrialRecord(**record) for record in json.loads(path.read_text())["trials"]]
