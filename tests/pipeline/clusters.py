"""A cluster of nodes started with `ray start`, and the command line against it."""

import shutil
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.pipeline.nodes import ENVIRONMENT, free_port, kill_all_of, start_node, wait_until

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Cluster:
    """Two nodes of one CPU each, the head and one other: of two encoder actors, one is on either. Or a head alone.

    More nodes on one machine would be in each other's way: they share the folder into which a job's files are unpacked,
    and each does so anew when it first needs them.
    """

    folder: Path
    gcs: int
    dashboard: str

    @classmethod
    def start(cls, *, alone=False):
        folder = Path(tempfile.mkdtemp(prefix="tw-"))  # short: socket paths below it are limited to 107 bytes
        gcs, dashboard = free_port(), free_port()
        cluster = cls(folder, gcs, f"http://127.0.0.1:{dashboard}")
        start_node(
            folder,
            "--head",
            f"--port={gcs}",
            f"--num-cpus={2 if alone else 1}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}",
            f"--temp-dir={folder}",
            name="head",
        )
        wait_until(lambda: _answers(f"{cluster.dashboard}/api/version"), cluster._log)
        cluster._wait_for_nodes(1)
        if not alone:
            cluster.add_node("second")
        return cluster

    def add_node(self, name):
        """Start a node and return once it has joined."""
        joined = self._joined()
        start_node(self.folder, f"--address=127.0.0.1:{self.gcs}", "--num-cpus=1", name=name)
        self._wait_for_nodes(joined + 1)

    def lose(self, name):
        """Kill all processes of a node."""
        kill_all_of(self.folder, name)

    def end(self):
        """Kill all nodes and leave nothing."""
        kill_all_of(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self):
        return f"cluster.address=127.0.0.1:{self.gcs}"

    def _log(self):
        return (self.folder / "ray.log").read_text()

    def _joined(self):
        return self._log().count("will now block")

    def _wait_for_nodes(self, number):
        wait_until(lambda: self._joined() >= number, self._log)


def _answers(url):
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError:
        return False


def command(*arguments, cwd=ROOT, **options):
    """Start `python -m pipeline`, as a process that sees nothing of the test session's own Ray."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=cwd,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        text=True,
        **options,
    )


def tradewind(*arguments, cwd=ROOT):
    """Run `python -m pipeline` to its end."""
    process = command(*arguments, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@contextmanager
def driver(log, *arguments):
    """Run a command with its output in a file; its process does not outlive the block."""
    process = command(*arguments, stdout=log.open("w"), stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition, process, log):
    """Return once ``condition()`` holds; fail when the process of a :func:`driver` ends before."""
    wait_until(lambda: process.poll() is not None or condition(), log.read_text)
    assert process.poll() is None, log.read_text()
