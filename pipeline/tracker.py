"""Which MLflow a run is tracked in, and the tables of a new one."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

from mlflow.db import upgrade
from sqlalchemy.engine import make_url

from pipeline.config import TradewindConfig
from policies.errors import InputError


def tracking_uri(config: TradewindConfig) -> str:
    """Return the configured tracking URI; by default a sqlite file in the root of runs. A new file gets its tables.

    Raises:
        InputError: the root of runs cannot be written.
    """
    if config.tracking.uri is not None:
        uri = config.tracking.uri
    else:
        root = Path(config.run.root)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"run.root={root}: cannot be written: {error.strerror}") from None
        uri = f"sqlite:///{root / 'mlflow.db'}"
    if uri.startswith("sqlite:///"):
        path = Path(str(make_url(uri).database))
        if path.parent.is_dir() and not path.exists():
            _make_tables(path)
    return uri


def _make_tables(path: Path) -> None:
    """Make MLflow's tables in a new file, whole or not at all.

    MLflow would make them in place, in dozens of steps that cannot be repeated: killed in between, it leaves a
    database that every later command fails on.
    """
    make = upgrade.callback
    assert make is not None
    staging = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with tempfile.TemporaryDirectory(prefix="tradewind-") as folder:
        made = Path(folder) / path.name
        make(f"sqlite:///{made}")
        shutil.copyfile(made, staging)
    try:
        with suppress(FileExistsError):  # another process was faster, and may have written to it
            os.link(staging, path)
    finally:
        staging.unlink(missing_ok=True)
