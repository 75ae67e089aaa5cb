"""Names of processes that have ended, live, or run on another host, and what each leaves behind."""

import subprocess
import sys

from policies.leftovers import this_process

ELSEWHERE = "00000000-1"
"""A process of another host."""


def gone_process():
    """Return the name of a process of this host that has ended."""
    ended = subprocess.run(
        [sys.executable, "-S", "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE
    )
    return f"{this_process().partition('-')[0]}-{int(ended.stdout)}"


def left_by(process, path, *, folder=False):
    """Make the temporary file or folder that a process has left of ``path``, and return it."""
    left = path.with_name(f"{path.name}.{process}-0123abcd.tmp")
    if folder:
        left.mkdir()
        left /= "content"
    left.write_text("half")
    return left.parent if folder else left
