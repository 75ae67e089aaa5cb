"""What a killed writer leaves behind: files and folders that were to be renamed to their names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path


def remove_leftovers(path: Path) -> None:
    """Remove ``NAME.xxxxxxxx.tmp`` beside ``path``, for any eight hex digits; of one writer at a time."""
    leftover = re.compile(re.escape(path.name) + r"\.[0-9a-f]{8}\.tmp")
    for left in path.parent.iterdir():
        if leftover.fullmatch(left.name):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
