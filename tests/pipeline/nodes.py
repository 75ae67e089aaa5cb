"""Ray nodes started with `ray start` on free ports, which die with their test and leave other clusters alone."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MARK = "TRADEWIND_TEST_CLUSTER"
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",  # Ray's own limit is short for a busy machine
    "PYTHONPATH": "",
    # As after activating the environment: a job's `python` is the one that its node finds first.
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}
"""What nodes and clients see: nothing of the test session's own Ray."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def start_node(folder: Path, *arguments: str, name: str = "node") -> None:
    """Start a node with `ray start`, in a session of its own; its processes carry the mark ``folder/name``."""
    subprocess.Popen(
        [
            Path(sys.executable).with_name("ray"),
            "start",
            "--block",
            "--disable-usage-stats",
            "--object-store-memory=100000000",
            f"--dashboard-agent-listen-port={free_port()}",  # by default one that other clusters here use too
            *arguments,
        ],
        env={**ENVIRONMENT, MARK: f"{folder}/{name}"},
        cwd=folder,
        stdout=(folder / "ray.log").open("a"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill_all_of(folder: Path, name: str = "") -> None:
    """Kill what :func:`start_node` started in ``folder`` (of one node, or of all) and all that came of it.

    `ray stop` would end every Ray on the machine.
    """
    mark = f"{MARK}={folder}/{name}".encode()
    for _ in range(2):  # a second time for what was started meanwhile
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if any(entry.startswith(mark) for entry in environment.read_bytes().split(b"\0")):
                    os.kill(int(environment.parent.name), signal.SIGKILL)


class Relay:
    """A TCP connection in between, on a port of its own, that can be cut and goes on taking new connections."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._pairs: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(self._target)
                self._pairs += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    @property
    def n_open(self) -> int:
        """Connections since the start or the last cut."""
        return len(self._pairs) // 2

    def cut(self) -> None:
        """End every open connection, as a network or a restarting server does."""
        pairs, self._pairs = self._pairs, []
        for end in pairs:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """Stop."""
        self._listener.close()
        self.cut()


def wait_until(condition: Callable[[], bool], what: Callable[[], str], timeout_s: float = 240.0) -> None:
    """Return once ``condition()`` holds; fail with ``what()`` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)
