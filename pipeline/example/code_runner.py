"""A real tool: a runner that executes the Python program of a prompt in a process of limited means.

The process gets bounded CPU time, memory, output and open files, no environment, no input and an empty folder; an
audit hook refuses sockets, further processes, foreign libraries and files beyond reading the standard library. That
keeps a faulty program from doing harm. It is no sandbox for hostile code: for that a container belongs around it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

CPU_S: Final = 2
WALL_S: Final = 10.0
MEMORY_BYTES: Final = 512 * 2**20
OUTPUT_BYTES: Final = 64 * 2**10

_PROGRAM = re.compile(r"```(?:python|py)\s*\n(.*?)```", re.DOTALL)

_WARDEN: Final = f"""
import posixpath, resource, sys
for limit, value in (("CPU", {CPU_S}), ("AS", {MEMORY_BYTES}), ("FSIZE", {OUTPUT_BYTES}), ("NOFILE", 16), ("CORE", 0)):
    kind = getattr(resource, "RLIMIT_" + limit)
    ceiling = resource.getrlimit(kind)[1]
    value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
    resource.setrlimit(kind, (value, value))
normpath = posixpath.normpath
program = compile(sys.stdin.read(), "program", "exec")
home = (sys.prefix + "/", sys.base_prefix + "/")
refused = ("socket.", "subprocess.", "os.", "shutil.", "ctypes.", "pty.", "signal.", "resource.", "mmap.", "sqlite3.")
def watch(event, arguments):
    if event in ("os.listdir", "os.scandir"):
        return
    if event.startswith(refused):
        raise PermissionError(event)
    if event == "open":
        path = normpath(str(arguments[0]))
        # os.open tells no mode: its flags may be those of writing.
        if not path.startswith(home) or arguments[1] not in ("r", "rb"):
            raise PermissionError("open " + path)
    if event == "import" and arguments[0].partition(".")[0] in ("ctypes", "_ctypes", "_posixsubprocess"):
        raise PermissionError(event)
sys.addaudithook(watch)
exec(program, {{"__name__": "__main__"}})
"""


class NotRunnableError(ValueError):
    """There is no Python program in the prompt, or it did not end well."""


def run_program(prompt: str) -> str:
    """Return what the prompt's Python program prints, without blanks at the end.

    Raises:
        NotRunnableError: there is no program marked as Python, it failed, or it went over a limit.
    """
    found = _PROGRAM.search(prompt)
    if found is None:
        raise NotRunnableError("no Python program in the prompt")
    return execute(found.group(1))


def execute(program: str) -> str:
    """Run a program in a process of its own and return what it prints, without blanks at the end.

    Raises:
        NotRunnableError: it failed, or went over a limit.
    """
    with tempfile.TemporaryDirectory(prefix="program-") as folder, tempfile.TemporaryFile() as output:
        # Output goes to a file, whose size has a limit that a pipe would not have.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", _WARDEN],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.DEVNULL,
            cwd=Path(folder),
            env={},
            start_new_session=True,
        )
        try:
            process.communicate(program.encode(), timeout=WALL_S)
        except subprocess.TimeoutExpired:
            raise NotRunnableError(f"still running after {WALL_S:g} s") from None
        finally:
            _end(process)
        if process.returncode != 0:
            raise NotRunnableError(f"ended with status {process.returncode}")
        output.seek(0)
        return output.read().decode(errors="replace").rstrip()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # Its session, not only itself: whatever it may have started goes with it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
