"""Files and folders that get their names by a rename, and what their writers leave behind when they are killed.

A temporary name tells which process made it: what a live process still writes is left alone, whoever else writes to
the same place.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

STALE_S = 86_400.0
"""Age in seconds at which a process that cannot be asked for, being on another host, is taken for gone."""

_TEMPORARY = re.compile(r"(?P<name>.+?)\.(?:(?P<process>[0-9a-f]{8}-[0-9]{1,9})-)?[0-9a-f]{8}\.tmp")


def this_process() -> str:
    """Return ``HOST-PID``: eight hex digits for where process ids mean the same as here, and the process id."""
    return f"{_host()}-{os.getpid()}"


def is_gone(process: str | None, seen_s: float) -> bool:
    """Return whether a process has ended: for sure on this host, elsewhere by age.

    Args:
        process: what :func:`this_process` returned there; None where it is not known.
        seen_s: Unix time in seconds of its last sign of life.
    """
    host, _, pid = (process or "").rpartition("-")
    if host != _host():
        return time.time() - seen_s > STALE_S
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def temporary_beside(path: Path) -> Path:
    """Return a new name beside ``path`` that :func:`remove_leftovers` knows: ``NAME.HOST-PID-xxxxxxxx.tmp``."""
    return path.with_name(f"{path.name}.{this_process()}-{uuid.uuid4().hex[:8]}.tmp")


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files and folders of processes that are gone.

    Args:
        folder: where they are.
        name: whose; None stands for all.
    """
    for left in folder.iterdir():
        found = _TEMPORARY.fullmatch(left.name)
        if found is None or name not in (None, found["name"]):
            continue
        with suppress(OSError):  # its writer has just finished it, or it is another user's
            if is_gone(found["process"], left.stat().st_mtime):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def put_in_place(staging: Path, folder: Path) -> None:
    """Give a finished folder its name; the one that has it now goes, or stays if that fails.

    Whoever reads meanwhile meets the old folder, none, or the new one, never a part of either.
    """
    aside = temporary_beside(folder)
    try:
        with suppress(FileNotFoundError):
            folder.rename(aside)
        try:
            staging.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            take_away(folder)  # another writer was between the two: the last one counts
            staging.rename(folder)
    except BaseException:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def take_away(folder: Path) -> None:
    """Remove a folder, if it is there, at once: what half a removal leaves is a leftover."""
    aside = temporary_beside(folder)
    with suppress(FileNotFoundError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _host() -> str:
    """Return eight hex digits for this boot of this machine and, in a container, its space of process ids."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # elsewhere than on Linux
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=4).hexdigest()
