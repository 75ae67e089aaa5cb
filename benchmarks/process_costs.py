"""Work in a process of its own, and what processes cost: peak memory, and CPU with that of all descendants."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

MEBIBYTE = 2**20


def in_process(work: Any, *arguments: Any) -> dict[str, Any]:
    """Run a function in a process of its own: its memory is its own too."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    process = context.Process(target=_put, args=(results, work, arguments))
    process.start()
    result: dict[str, Any] = results.get()
    process.join()
    if "error" in result:
        raise RuntimeError(result["error"])
    return result


def _put(results: Any, work: Any, arguments: tuple[Any, ...]) -> None:
    try:
        results.put(work(*arguments))
    except BaseException as error:
        results.put({"error": repr(error)})
        raise


class Memory(threading.Thread):
    """Samples the resident memory of this process and of Ray's workers, from /proc."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()
        self._peak: dict[str, float] = {}

    def run(self) -> None:
        own = Path("/proc/self")
        base = _resident(own)[1]
        while not self._ended.wait(0.05):
            total, private = _resident(own)
            workers = [_resident(path) for path in Path("/proc").glob("[0-9]*") if _is_worker(path)]
            now = {
                "driver_peak_mb": total,
                "driver_private_growth_mb": private - base,
                "workers_peak_mb": sum(worker[0] for worker in workers),
                "workers_private_peak_mb": sum(worker[1] for worker in workers),
            }
            self._peak = {name: max(value, self._peak.get(name, 0.0)) for name, value in now.items()}

    def stop(self) -> dict[str, int]:
        """Return the peaks in MiB."""
        self._ended.set()
        self.join()
        return {name: round(value / MEBIBYTE) for name, value in self._peak.items()}


def _resident(process: Path) -> tuple[float, float]:
    """Return resident bytes of a process in /proc: all, and without mapped files and the object store."""
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0, 0.0
    kib = {name: float(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.strip()
           and name in ("VmRSS", "RssAnon")}  # fmt: skip
    return kib.get("VmRSS", 0.0) * 1024, kib.get("RssAnon", 0.0) * 1024


def _is_worker(process: Path) -> bool:
    """Return whether a process runs a task of a cluster that this process started."""
    try:
        title = (process / "cmdline").read_bytes()
        if not title.startswith(b"ray::"):
            return False
        ancestor = process
        while ancestor.name not in ("0", "1"):
            ancestor = Path("/proc") / (ancestor / "stat").read_text().rpartition(")")[2].split()[1]
            if ancestor.name == str(os.getpid()):
                return True
    except OSError:
        pass
    return False


class CpuClock(threading.Thread):
    """Takes the CPU time of this process and its descendants, from when ``begun`` holds until one of them ends."""

    def __init__(self, begun: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self._begun = begun
        self._ended = threading.Event()
        self._samples: list[tuple[float, float]] = []

    def run(self) -> None:
        while not self._begun():
            if self._ended.wait(0.05):
                return
        own = psutil.Process()
        family = [own, *own.children(recursive=True)]
        with suppress(psutil.NoSuchProcess):
            while True:
                cpu = sum(sum(process.cpu_times()[:2]) for process in family)
                self._samples.append((time.perf_counter(), cpu))
                if self._ended.wait(0.5):
                    return

    def stop(self) -> float:
        """Return how many cores were busy on average."""
        self._ended.set()
        self.join()
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / (end - start)
