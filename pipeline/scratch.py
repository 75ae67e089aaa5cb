"""A folder for what one stage needs while it runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.layout import RunLayout
from policies.leftovers import remove_leftovers, temporary_beside


@contextmanager
def scratch(layout: RunLayout, name: str) -> Iterator[Path]:
    """Make an empty folder ``.NAME.*.tmp`` in the run's and remove it afterwards.

    Those of the same name whose processes are gone are removed as well.
    """
    remove_leftovers(layout.root, f".{name}")
    folder = temporary_beside(layout.root / f".{name}")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
