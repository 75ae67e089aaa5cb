"""Where a run's tables come from, and whether a policy may be trained on them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.layout import RunLayout
from policies.errors import InputError


@dataclass(frozen=True)
class Provenance:
    """What ``tables/source.json`` of a run says.

    Attributes:
        source: ``data.source``, or the benchmark's name.
        evaluation_only: the source's rules forbid training on it.
        notes: what the loader left out or changed.
    """

    source: str
    evaluation_only: bool = False
    notes: tuple[str, ...] = ()


def provenance_path(layout: RunLayout) -> Path:
    """Return the file that ingest writes and training asks."""
    return layout.root / "tables" / "source.json"


def record_provenance(layout: RunLayout, provenance: Provenance) -> None:
    """Write the run's provenance, whole or not at all."""
    path = provenance_path(layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(asdict(provenance), indent=2) + "\n")
    scratch.replace(path)


def read_provenance(layout: RunLayout) -> Provenance | None:
    """Return the run's provenance; None for a run of tables that nothing is known about.

    Raises:
        InputError: the file was damaged: what it forbade is then unknown.
    """
    path = provenance_path(layout)
    if not path.exists():
        return None
    try:
        body = json.loads(path.read_text())
        return Provenance(str(body["source"]), bool(body["evaluation_only"]), tuple(body["notes"]))
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged; run `python -m pipeline ingest` again") from None


def refuse_training(layout: RunLayout) -> None:
    """Do nothing unless the run's source is for evaluation only. Every learning stage calls this first.

    Raises:
        InputError: it is.
    """
    provenance = read_provenance(layout)
    if provenance is not None and provenance.evaluation_only:
        raise InputError(
            f"{provenance_path(layout)}: '{provenance.source}' is for evaluation only, its rules forbid "
            "training on it; train on another source and evaluate that policy here"
        )
