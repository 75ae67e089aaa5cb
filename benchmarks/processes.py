"""Servers in processes of their own: their first line of JSON tells that they answer, closing their input ends them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STOP_S = 60.0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a module of this folder.

    Args:
        module: its name.
        arguments: of its command line.
        log: gets what it writes to standard error.
        environment: on top of this process's own.
    """
    with log.open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(environment or {})},
            cwd=ROOT,
        )


def first_line(process: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    """Return the JSON that a process prints once it answers.

    Raises:
        RuntimeError: it ended before; with the end of its ``log``.
    """
    assert process.stdout is not None
    # Ray, too, may write to standard output.
    line = next((found for found in process.stdout if found.startswith("{")), None)
    if line is None:
        raise RuntimeError(f"{log.stem} did not start: {log.read_text()[-2000:]}")
    found: dict[str, Any] = json.loads(line)
    return found


def stop(process: subprocess.Popen[str]) -> None:
    """End a process that stops when its input closes, or else when it is told to."""
    if process.stdin is not None:
        process.stdin.close()
    else:
        process.terminate()
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
