"""What a million prompts cost in each stage, and how that grows with their number.

Runs the stages' own commands on runs of 1, 10 and 100 times a base size (and a tenth of it, for the
start-up), each in a process group of its own, and notes wall seconds, CPU seconds and the peak of the resident
memory of the command and of everything that it started, and how much of the processors other work took
meanwhile. `train`, `evaluate` and `route` get synthetic vectors and planted outcomes of 11 models, `embed`
short texts. Measurements are kept one by one in the JSON file: the same command goes on where it stopped.
Prints one JSON line with the fits; `--render` writes the tables of docs/scale.md from the file.

    python -m benchmarks.scale --out docs/scale.json [--stages train route] [--repeats 3] [--most 20000]
    python -m benchmarks.scale --out docs/scale.json --render
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import psutil

from benchmarks.scale_cost import fitted
from benchmarks.scale_page import render
from benchmarks.scale_tables import text_run, vector_run
from policies.encoder.backends import choose_backend

BASE = {"train": 2000, "evaluate": 2000, "route": 2000, "embed": 200}
"""Prompts of size 1x."""
FACTORS = (0.1, 1, 10, 100)
TICK_S = 0.25
MEBIBYTE = 2**20
PAGE = Path(__file__).resolve().parents[1] / "docs" / "scale.md"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the measurements")
    parser.add_argument("--stages", nargs="+", default=list(BASE), choices=list(BASE))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most", type=int, help="leave larger sizes out")
    parser.add_argument("--folder", help="where runs are written; default: the system's temporary folder")
    parser.add_argument(
        "--render", action="store_true", help="fit and write docs/scale.md's tables, measure nothing"
    )
    options = parser.parse_args()
    done: dict[str, Any] = {"runs": []}
    if options.out.exists():
        done = json.loads(options.out.read_text())
    if options.render:
        _fit_and_save(done, options.out)
        PAGE.write_text(render(PAGE.read_text(), done))
        return
    done["machine"] = {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "encoder_backend": choose_backend("auto"),
    }
    for repeat in range(options.repeats):
        for factor in FACTORS:
            sizes = {stage: int(BASE[stage] * factor) for stage in options.stages}
            wanted = {
                stage: n
                for stage, n in sizes.items()
                if (options.most is None or n <= options.most)
                and not any(
                    (r["stage"], r["prompts"], r["repeat"]) == (stage, n, repeat) for r in done["runs"]
                )
            }
            for run in _measured(wanted, repeat, options.folder):
                done["runs"].append(run)
                _save(done, options.out)
    _fit_and_save(done, options.out)
    print(json.dumps({"benchmark": "scale", "machine": done["machine"], "fits": done["fits"]}))


def _measured(wanted: dict[str, int], repeat: int, root: str | None) -> Any:
    """Yield the measurements of the stages at their sizes; those on vectors share a run."""
    vectors = [stage for stage in ("train", "evaluate", "route") if stage in wanted]
    if vectors:
        with tempfile.TemporaryDirectory(dir=root) as name:
            n = wanted[vectors[0]]
            run = vector_run(Path(name), n)
            if "train" not in wanted:
                _command("train", run)  # the others need its policy
            for stage in vectors:
                yield {"stage": stage, "prompts": n, "repeat": repeat, **_command(stage, run)}
    if "embed" in wanted:
        with tempfile.TemporaryDirectory(dir=root) as name:
            run = text_run(Path(name), wanted["embed"])
            yield {"stage": "embed", "prompts": wanted["embed"], "repeat": repeat, **_command("embed", run)}


def _command(stage: str, run: Path) -> dict[str, Any]:
    """Run a stage's command and return what it took.

    Raises:
        RuntimeError: the command failed.
    """
    seconds: dict[psutil.Process, float] = {}
    peak = 0.0
    with tempfile.TemporaryFile("w+") as output:  # a pipe that nobody reads would stop it once full
        started, busy_before = time.perf_counter(), _busy_elsewhere()
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", stage, f"run={run}"],
            cwd=PAGE.parents[1],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                peak = max(peak, _sample(psutil.Process(process.pid), seconds))
                time.sleep(TICK_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        wall_s, busy = time.perf_counter() - started, _busy_elsewhere() - busy_before
        if process.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"{stage} on {run}: {output.read()[-2000:]}")
    return {
        "wall_s": round(wall_s, 2),
        "cpu_s": round(sum(seconds.values()), 2),
        "peak_mb": round(peak / MEBIBYTE),
        "other_cpus": round(max(0.0, busy - sum(seconds.values())) / wall_s, 2),
    }


def _busy_elsewhere() -> float:
    """Return the CPU seconds that all but this process were given since the start, and those that went elsewhere."""
    times = psutil.cpu_times()
    own = psutil.Process().cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice - own.user - own.system


def _sample(root: psutil.Process, seconds: dict[psutil.Process, float]) -> float:
    """Note the CPU seconds of a process and all its descendants so far; return their resident bytes.

    Pages that several of them share count in parts, once in all (proportional set size).
    """
    resident = 0.0
    with suppress(psutil.Error):
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                seconds[process] = times.user + times.system
                resident += process.memory_full_info().pss
    return resident


def _fit_and_save(done: dict[str, Any], path: Path) -> None:
    done["fits"] = {stage: fitted(done["runs"], stage) for stage in BASE}
    _save(done, path)


def _save(done: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(done, indent=1) + "\n")
    temporary.rename(path)


if __name__ == "__main__":
    main()
