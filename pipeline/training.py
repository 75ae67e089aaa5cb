"""What a learner is given and what it hands back, whichever learner it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.comparisons import RunComparisons
from pipeline.config import TradewindConfig
from policies.base import Policy
from policies.datasets import LoggedFeedback, OutcomeMatrix


@dataclass(frozen=True)
class TrainingInputs:
    """Data of one training run; both parts are logs in logged mode and full tables otherwise.

    Attributes:
        train: what gradients are taken on.
        validation: what chooses the checkpoint.
        tau_usd: cost scale of the reward in USD.
        scratch: existing folder for working files, removed after training.
        record: writes one line of the training history.
        comparisons: of the run, for learners that take them; None where it has none.
    """

    train: OutcomeMatrix | LoggedFeedback
    validation: OutcomeMatrix | LoggedFeedback
    tau_usd: float
    scratch: Path
    record: Callable[[dict[str, Any]], None]
    comparisons: RunComparisons | None = None


@dataclass(frozen=True)
class TrainedPolicy:
    """A learner's result.

    Attributes:
        policy: the decision rule.
        notes: what the artifact remembers of the training, repeatable from run to run (no times).
    """

    policy: Policy
    notes: dict[str, Any] = field(default_factory=dict)


Trainer = Callable[[TradewindConfig, TrainingInputs], TrainedPolicy]


class HistoryFile:
    """Training metrics as JSON lines, readable while they are written."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._path.write_text("")

    def record(self, line: dict[str, Any]) -> None:
        """Append one line."""
        with self._path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


HASHED_STRINGS = 65_536
"""Strings that are joined at a time."""


def content_hash(data: OutcomeMatrix | LoggedFeedback) -> str:
    """Return a short hash of everything that a learner sees."""
    digest = hashlib.sha256()
    columns: list[npt.NDArray] = [data.prompt_ids, data.embeddings, data.scores, data.costs_usd]
    if isinstance(data, LoggedFeedback):
        columns += [data.actions, data.propensities, data.eligible]
    for values in columns:
        if values.dtype.kind == "U":
            for start in range(0, len(values), HASHED_STRINGS):
                if start:
                    digest.update(b"\x00")
                digest.update("\x00".join(values[start : start + HASHED_STRINGS].tolist()).encode())
        else:
            # Not `tobytes`: vectors may be a mapped file of gigabytes.
            digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]
