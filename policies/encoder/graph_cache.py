"""Converted graphs on disk: conversion needs PyTorch and takes seconds, reading does not."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from policies.leftovers import put_in_place, remove_leftovers, temporary_beside

T = TypeVar("T")


def default_cache_dir() -> Path:
    """Return the folder of converted graphs: ``$XDG_CACHE_HOME/tradewind``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tradewind"


def cached_graph(folder: Path, write: Callable[[Path], None], read: Callable[[Path], T | None]) -> T:
    """Return what ``read`` makes of ``folder``, which ``write`` fills first where nothing readable is there.

    Args:
        folder: appears by a rename, complete.
        write: fills an empty folder.
        read: returns None where the folder is missing or damaged.

    Raises:
        RuntimeError: what was just written cannot be read.
    """
    graph = read(folder)
    if graph is not None:
        return graph
    staging = _staging_beside(folder)
    try:
        write(staging)
        # Saving simplifies a graph: the first process, too, runs what the others will read. It reads its own copy:
        # another that starts beside it may be replacing the folder.
        graph = read(staging)
        if graph is None:
            raise RuntimeError(f"{staging}: the converted graph cannot be read back")
        try:
            put_in_place(staging, folder)
            remove_leftovers(folder.parent)
        except OSError:
            pass  # another process was first, or the home is read-only: what was read serves as well
        return graph
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _staging_beside(folder: Path) -> Path:
    staging = temporary_beside(folder)
    try:
        staging.mkdir(parents=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="tradewind-"))  # a read-only home: converted anew each time
    return staging
