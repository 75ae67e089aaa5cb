"""Which MLflow a run is tracked in, and the tables of a new one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from mlflow.db import upgrade
from sqlalchemy.engine import make_url

from pipeline.config import TradewindConfig
from policies.errors import InputError
from policies.leftovers import remove_leftovers, temporary_beside


def tracking_uri(config: TradewindConfig) -> str:
    """Return the configured tracking URI; by default a sqlite file in the root of runs. A new file gets its tables.

    Raises:
        InputError: the root of runs, or the folder of a sqlite file that is not there yet, cannot be written.
    """
    root = Path(config.run.root)
    uri, key = config.tracking.uri, f"tracking.uri={config.tracking.uri}"
    try:
        if uri is None:
            uri, key = f"sqlite:///{root / 'mlflow.db'}", f"run.root={root}"
            root.mkdir(parents=True, exist_ok=True)
        path = _sqlite_file(uri)
        if path is not None and path.parent.is_dir() and not path.exists():
            _make_tables(path)
    except OSError as error:
        where = "" if error.filename is None else f" ({error.filename})"  # it may be the temporary folder's
        raise InputError(f"{key}: cannot be written: {error.strerror}{where}") from None
    return uri


def _sqlite_file(uri: str) -> Path | None:
    """Return the file of a database; None for a server's, one in memory or one that sqlite alone can find."""
    if not uri.startswith("sqlite:///"):
        return None
    name = make_url(uri).database
    return None if not name or name.startswith((":memory:", "file:")) else Path(name)


def _make_tables(path: Path) -> None:
    """Make MLflow's tables in a new file, whole or not at all.

    MLflow would make them in place, in dozens of steps that cannot be repeated: killed in between, it leaves a
    database that every later command fails on.
    """
    make = upgrade.callback
    assert make is not None
    remove_leftovers(path.parent, path.name)
    staging = temporary_beside(path)
    staging.touch()  # whether it can be written is known before the tables are made
    try:
        with tempfile.TemporaryDirectory(prefix="tradewind-") as folder:
            made = Path(folder) / path.name
            make(f"sqlite:///{made}")
            shutil.copyfile(made, staging)
        _name_unless_taken(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def _name_unless_taken(staging: Path, path: Path) -> None:
    """Give a file its name, unless another process was faster: it may have written to its own."""
    try:
        os.link(staging, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            staging.rename(path)
