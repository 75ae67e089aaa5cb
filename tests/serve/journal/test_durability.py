"""Whatever is killed when: what was acknowledged is in the log, once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import httpx
import polars as pl
import pytest

from pipeline.tables import read_table, to_polars
from policies.schemas import FEEDBACK
from serve.journal.export import Exporter
from serve.journal.journal import Journal
from serve.settings.log import DecisionLogSettings
from tests.serve.journal.cases import a_decision

ROOT = Path(__file__).parents[3]


def exported(journal: Journal) -> pl.DataFrame:
    exporter = Exporter(journal)
    exporter.run()
    # Reading refuses an event that is there twice.
    return to_polars(read_table(FEEDBACK, f"{exporter.folder}/feedback"))


def acknowledged(output: bytes, kind: str) -> set[str]:
    # The last line may be cut by the kill.
    lines = [line.split() for line in output.decode().split("\n")[:-1]]
    return {line[1] for line in lines if line[0] == kind}


def test_processes_killed_under_load_lose_nothing_that_they_acknowledged(tmp_path):
    command = [sys.executable, "-m", "tests.serve.journal.writer", str(tmp_path)]
    outputs = [(tmp_path / f"{n}.out") for n in range(3)]
    processes = []
    for path in outputs:
        with path.open("wb") as stream:
            processes.append(subprocess.Popen(command, stdout=stream, cwd=ROOT))
    try:
        deadline = time.monotonic() + 120
        # Killed one after the other, so that the survivors meet what the dead left behind.
        for n, process in enumerate(processes, start=1):
            while any(path.read_bytes().count(b"outcome") < 60 * n for path in outputs[n - 1 :]):
                assert time.monotonic() < deadline, "the writers do not get on"
                assert all(p.poll() is None for p in processes[n - 1 :]), "a writer stopped by itself"
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    output = b"".join(path.read_bytes() for path in outputs)
    decisions, outcomes = acknowledged(output, "decision"), acknowledged(output, "outcome")
    assert len(outcomes) >= 180 + 60
    journal = Journal.open(DecisionLogSettings(directory=str(tmp_path)))
    try:
        # Callers that saw no answer ask again: nothing may come twice of it.
        asyncio.run(journal.record_many([a_decision(decision_id) for decision_id in sorted(decisions)]))
        log = exported(journal)
        assert decisions <= set(log["event_id"])
        assert outcomes <= set(log.filter(pl.col("score") == 1.0, pl.col("cost_usd") == 0.5)["event_id"])
        assert journal.traffic(3600).decisions == log.height
        assert journal.traffic(3600).feedback == log["score"].is_not_null().sum()
    finally:
        journal.close()


def test_an_exporter_killed_at_any_moment_leaves_a_log_that_can_be_read(tmp_path):
    settings = DecisionLogSettings(directory=str(tmp_path), rows_per_file=50)
    journal = Journal.open(settings)
    asyncio.run(journal.record_many([a_decision(f"d{i}") for i in range(2_000)]))
    script = (
        "import sys; from serve.journal.journal import Journal; from serve.journal.export import Exporter;"
        "from serve.settings.log import DecisionLogSettings as S;"
        "Exporter(Journal.open(S(directory=sys.argv[1]))).run()"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT)
    folder = tmp_path / "export" / "feedback"
    try:
        deadline = time.monotonic() + 120
        while not folder.exists() or len(list(folder.glob("*.parquet"))) < 5:
            assert time.monotonic() < deadline, "the exporter does not get on"
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    assert set(to_polars(read_table(FEEDBACK, str(folder)))["event_id"]) <= {f"d{i}" for i in range(2_000)}
    assert exported(journal).height == 2_000
    journal.close()


def pids_of(app: str) -> list[int]:
    """Return the processes of an application's router replicas, by the title that Ray gives them."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            title = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if entry.name.isdigit() and f"ray::ServeReplica:{app}:router" in title:
            found.append(int(entry.name))
    return found


@pytest.fixture
def logged_app(endpoint, bundle_dir, tmp_path):
    """URL of an application of two replicas with a journal, its name, and the journal's folder."""
    from ray import serve

    from serve.app import build

    name = f"durable{uuid.uuid4().hex[:8]}"
    arguments = {
        "bundle": str(bundle_dir),
        "num_replicas": 2,
        "num_cpus_per_replica": 0.25,
        "log": {"directory": str(tmp_path / "log")},
    }
    serve.run(build(arguments), name=name, route_prefix=f"/{name}")
    yield f"{endpoint}/{name}", name, tmp_path / "log"
    serve.delete(name)


def test_a_replica_killed_while_clients_post_loses_nothing(logged_app):
    url, name, directory = logged_app
    decisions: dict[str, str] = {}
    told: set[str] = set()
    stop = threading.Event()

    def post(number: int) -> None:
        with httpx.Client(base_url=url, timeout=20) as client:
            turn = 0
            while not stop.is_set():
                turn += 1
                try:
                    body = {"prompt": f"Question {number}-{turn % 5}", "w_cost": 0.4}
                    answer = client.post("/v1/route", json=body)
                    if answer.status_code != 200:
                        continue
                    decision_id = answer.json()["decision_id"]
                    decisions[decision_id] = answer.json()["model"]
                    feedback = {"decision_id": decision_id, "score": 0.5}
                    if client.post("/v1/feedback", json=feedback).status_code == 200:
                        told.add(decision_id)
                except httpx.TransportError:
                    continue

    threads = [threading.Thread(target=post, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + 120
        first = pids_of(name)
        assert len(first) == 2
        while len(told) < 40:
            assert time.monotonic() < deadline, "the clients do not get on"
            time.sleep(0.05)
        os.kill(first[0], signal.SIGKILL)
        before = len(told)
        while len(told) < before + 80 or not set(pids_of(name)) - set(first):
            assert time.monotonic() < deadline, "the application does not recover"
            time.sleep(0.05)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    journal = Journal.open(DecisionLogSettings(directory=str(directory)))
    try:
        log = exported(journal)
        logged = dict(zip(log["event_id"], log["model"]))
        assert {decision_id: logged.get(decision_id) for decision_id in decisions} == decisions
        assert told <= set(log.filter(pl.col("score") == 0.5)["event_id"])
    finally:
        journal.close()
