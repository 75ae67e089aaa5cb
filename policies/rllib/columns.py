"""The learner's columns as memory-mapped files: one copy on disk serves every trial and checkpoint of a search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError

ONLINE_COLUMNS = ("embeddings", "prompt_tokens", "scores", "costs_usd")
"""Full information: (n, d), (n,), (n, K) and (n, K) float32; NaN where not observed."""

LOGGED_COLUMNS = ("embeddings", "prompt_tokens", "actions", "propensities", "scores", "costs_usd", "eligible")
"""Feedback log: (n, d) and (n,) float32, (n,) int64, three of (n,) float32, (n, K) bool."""

TRAIN, VALIDATION = "train", "validation"


def training_columns(data: OutcomeMatrix | LoggedFeedback) -> dict[str, npt.NDArray]:
    """Return what a learner needs of a data set.

    Prompts without a single observed outcome, and events whose score or cost has not arrived, are left out.

    Raises:
        InputError: nothing is left.
    """
    if isinstance(data, OutcomeMatrix):
        kept_prompts = data.rows(data.observed.any(axis=1))
        columns: dict[str, npt.NDArray] = {
            "embeddings": np.asarray(kept_prompts.embeddings, dtype=np.float32),
            "prompt_tokens": kept_prompts.prompt_tokens.astype(np.float32),
            "scores": kept_prompts.scores.astype(np.float32),
            "costs_usd": kept_prompts.costs_usd.astype(np.float32),
        }
    else:
        events = data.scored()
        columns = {
            "embeddings": np.asanyarray(events.embeddings, dtype=np.float32),
            "prompt_tokens": events.prompt_tokens.astype(np.float32),
            "actions": events.actions.astype(np.int64),
            "propensities": events.propensities.astype(np.float32),
            "scores": events.scores.astype(np.float32),
            "costs_usd": events.costs_usd.astype(np.float32),
            "eligible": events.eligible,
        }
    if len(columns["embeddings"]) == 0:
        raise InputError(
            f"none of the {len(data)} rows has an observed score and cost: nothing to learn from"
        )
    return columns


def write_columns(directory: Path, columns: dict[str, npt.NDArray]) -> None:
    """Write one ``.npy`` per column into a new folder; a column that is such a file already is linked."""
    directory.mkdir(parents=True)
    for name, values in columns.items():
        target = directory / f"{name}.npy"
        source = _whole_file(values)
        if source is None or not _linked(source, target):
            np.save(target, np.ascontiguousarray(values))


def _whole_file(values: npt.NDArray) -> Path | None:
    """Return the ``.npy`` file that an array maps from its first to its last value, if there is one."""
    if not isinstance(values, np.memmap) or values.filename is None or not values.flags.c_contiguous:
        return None
    path = Path(values.filename)
    return path if path.suffix == ".npy" and path.stat().st_size == values.offset + values.nbytes else None


def _linked(source: Path, target: Path) -> bool:
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or a file system without links
        return False
    return True


def open_columns(directory: Path) -> dict[str, Tensor]:
    """Map the columns of a folder into memory; processes on one machine share the pages.

    Raises:
        InputError: the folder holds neither layout.
    """
    found = {path.stem for path in directory.glob("*.npy")}
    if found not in (set(ONLINE_COLUMNS), set(LOGGED_COLUMNS)):
        raise InputError(f"{directory}: holds columns {sorted(found)}, not those of a training set")
    # Copy-on-write: torch wants writable memory, the files stay as they are.
    return {
        name: torch.from_numpy(np.load(directory / f"{name}.npy", mmap_mode="c")) for name in sorted(found)
    }
