"""A cluster of nodes started with `ray start`, met through the command line: jobs, and parts of it killed.

What comes out after a loss must be what an undisturbed run gives, bit for bit.
"""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline import embed, ingest, route
from pipeline.__main__ import main
from pipeline.compose import load_config, record_config
from pipeline.embedding_table import read_embeddings
from pipeline.layout import RunLayout
from policies.bundle import RouterBundle
from tests.pipeline.nodes import ENVIRONMENT, Relay, free_port, kill_all_of, start_node, wait_until

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
        log = (folder / "ray.log").read_text
        wait_until(lambda: answers(f"{cluster.dashboard}/api/version"), log)
        if not alone:
            cluster.add_node("second")
        wait_until(lambda: log().count("will now block") == (1 if alone else 2), log)
        return cluster

    def add_node(self, name):
        start_node(self.folder, f"--address=127.0.0.1:{self.gcs}", "--num-cpus=1", name=name)

    @property
    def address(self):
        return f"cluster.address=127.0.0.1:{self.gcs}"

    def lose(self, name):
        kill_all_of(self.folder, name)

    def end(self):
        kill_all_of(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def cluster():
    started = Cluster.start()
    try:
        yield started
    finally:
        started.end()


def command(*arguments, cwd=ROOT, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=cwd,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        text=True,
        **options,
    )


def tradewind(*arguments, cwd=ROOT):
    process = command(*arguments, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def ingested(folder, n_prompts):
    overrides = [f"run.root={folder}", "run.name=job", f"data.example.n_prompts={n_prompts}"]
    config = load_config(overrides)
    record_config(config, overrides)
    ingest.run(config)
    return RunLayout.of(config)


def test_a_stage_runs_on_other_nodes_and_its_log_comes_back(cluster, tmp_path):
    layout = ingested(tmp_path, 200)
    done = tradewind("submit", cluster.dashboard, "embed", f"run={layout.root}", "--no-env")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "embed: 200 prompts" in done.stdout
    assert "succeeded, exit code 0" in done.stderr
    assert len(read_embeddings(layout.embeddings)[0]) == 200


def test_the_jobs_exit_code_is_returned(cluster, tmp_path):
    done = tradewind(
        "submit",
        cluster.dashboard,
        "ingest",
        "data=tables",
        "data.prompts=missing.parquet",
        "data.outcomes=missing.parquet",
        f"run.dir={tmp_path}/run",
        "--no-env",
        cwd=tmp_path,
    )
    assert done.returncode == 2
    # Relative paths are those of the caller, not of the job's copy of the checkout.
    assert f"error: {tmp_path}/missing.parquet: no such file" in done.stdout


def interrupt(arguments, answer, *, after, meanwhile=lambda: None):
    """Run a command on a terminal, press Ctrl-C once ``after`` was printed, answer, and return (code, output).

    ``meanwhile`` is called in between.
    """
    master, slave = pty.openpty()
    process = command(*arguments, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=1)
    printed = ""
    while after not in printed:
        line = process.stdout.readline()
        assert line, printed
        printed += line
    meanwhile()
    process.send_signal(signal.SIGINT)
    os.write(master, f"{answer}\n".encode())
    rest, _ = process.communicate(timeout=120)
    os.close(master)
    os.close(slave)
    return process.returncode, printed + rest


def test_ctrl_c_leaves_the_job_running_or_stops_it(cluster, tmp_path):
    layout = ingested(tmp_path, 5000)
    arguments = [
        "submit",
        cluster.dashboard,
        "embed",
        f"run={layout.root}",
        # Slow enough not to be done before it is stopped.
        "encoder.num_actors=1",
        "encoder.backend=torch-fp32",
        "--no-env",
    ]
    code, printed = interrupt(arguments, "n", after="embed: 5000 prompts")
    assert code == 130
    follow = re.search(r"left running\. Follow it again: python -m pipeline (attach \S+ \S+)", printed)
    assert follow, printed
    relay = Relay(int(cluster.dashboard.rpartition(":")[2]))
    attach = ["attach", f"http://127.0.0.1:{relay.port}", follow.group(1).split()[2]]

    def lose_connection():
        relay.cut()
        wait_until(lambda: relay.n_open > 0, lambda: "the client did not come back")
        time.sleep(2)  # time to show all again, if it would

    code, printed = interrupt(attach, "y", after="embed: 5000 prompts", meanwhile=lose_connection)
    relay.close()
    assert code == 130
    assert printed.count("embed: 5000 prompts") == 1
    assert printed.splitlines()[-1].endswith(": stopped"), printed
    assert not layout.embeddings.exists()


def test_a_job_that_is_not_there_is_named_with_those_that_are(cluster):
    done = tradewind("attach", cluster.dashboard, "raysubmit_none")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: raysubmit_none: no such job at {cluster.dashboard}; there are: ")


def settings(root):
    return [
        f"run.root={root}",
        "run.name=run",
        "data.example.n_prompts=300",
        "policy=ridge",
        "encoder.block_rows=4",
        "route.block_rows=16",
        "route.decision=sample",
        "evaluate.baselines=[]",
        "evaluate.bootstrap_samples=20",
        f"tracking.uri=sqlite:///{root}/mlflow.db",
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cluster):
    """A run that nothing happened to, up to its decisions."""
    overrides = [*settings(tmp_path_factory.mktemp("undisturbed")), cluster.address]
    assert main(["run", *overrides]) == 0
    config = load_config(overrides)
    route.run(config)
    return RunLayout.of(config)


def up_to_tables(root, cluster):
    """Return the configuration and layout of a run of its own root, up to its tables."""
    overrides = [*settings(root), cluster.address]
    config = load_config(overrides)
    record_config(config, overrides)
    ingest.run(config)
    return config, RunLayout.of(config)


@contextmanager
def driver(log, *arguments):
    """Run a command with its output in a file; its process does not outlive the block."""
    process = command(*arguments, stdout=log.open("w"), stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def shards(layout):
    return sorted(layout.root.parent.glob("embeddings/*/*.parquet"))


def wait_for_shards(layout, process, log):
    wait_until(lambda: len(shards(layout)) >= 4 or process.poll() is not None, log.read_text)
    assert process.poll() is None, log.read_text()


def assert_same_embeddings(layout, expected):
    assert pq.read_table(layout.embeddings).equals(pq.read_table(expected.embeddings))
    stored = [h for path in shards(layout) for h in pq.read_table(path)["content_hash"].to_pylist()]
    wanted = pq.read_table(expected.embeddings)["content_hash"].to_pylist()
    assert sorted(stored) == sorted(set(wanted)), "every text is stored once"
    assert not list(layout.root.rglob("*.tmp"))


def test_embedding_goes_on_after_its_driver_was_killed(undisturbed, cluster, tmp_path):
    config, layout = up_to_tables(tmp_path, cluster)
    log = tmp_path / "driver.log"
    with driver(log, "embed", f"run={layout.root}") as process:
        wait_for_shards(layout, process, log)
    before = len(shards(layout))
    assert not layout.embeddings.exists()
    embed.run(config)
    assert before < len(shards(layout))
    assert_same_embeddings(layout, undisturbed)


def test_routing_again_after_its_driver_was_killed_decides_the_same(undisturbed, cluster, tmp_path):
    output, log = tmp_path / "decisions.parquet", tmp_path / "driver.log"
    arguments = [f"run={undisturbed.root}", f"output={output}"]
    with driver(log, "route", *arguments, cluster.address) as process:
        wait_until(lambda: "route:" in log.read_text() or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["driver.log"], "nothing half-written"
    route.run(load_config([*arguments, cluster.address]))
    assert pl.read_parquet(output).equals(pl.read_parquet(undisturbed.decisions))


def test_training_survives_the_loss_of_a_learners_node(undisturbed, cluster, tmp_path):
    """Two learners, one on either node, that average their gradients."""
    arguments = (
        "policy=outcome_model",
        "policy.members=2",
        "policy.simulated_online.epochs=30",
        "train.num_learners=2",
        cluster.address,
    )
    learned = []
    for name in ("whole", "disturbed"):
        layout, log = RunLayout(tmp_path / name), tmp_path / f"{name}.log"
        shutil.copytree(undisturbed.root, layout.root)
        layout.history.unlink()
        with driver(log, "train", f"run={layout.root}", *arguments) as process:
            if name == "disturbed":
                path = layout.history
                wait_until(
                    lambda path=path, process=process: (
                        process.poll() is not None or (path.exists() and path.read_text().count("\n") >= 3)
                    ),
                    log.read_text,
                )
                assert process.poll() is None, log.read_text()
                cluster.lose("second")
                cluster.add_node("second")
            assert process.wait(timeout=300) == 0, log.read_text()
        assert ("a learner died" in log.read_text()) is (name == "disturbed")
        learned.append((RouterBundle.load(layout.policy).policy_version, layout.history.read_text()))
    assert learned[0] == learned[1]


def test_embedding_survives_the_loss_of_a_node(undisturbed, cluster, tmp_path):
    _, layout = up_to_tables(tmp_path, cluster)
    log = tmp_path / "driver.log"
    with driver(log, "embed", f"run={layout.root}") as process:
        wait_for_shards(layout, process, log)
        cluster.lose("second")
        # As an autoscaler would: another node takes the dead one's place.
        cluster.add_node("third")
        assert process.wait(timeout=300) == 0, log.read_text()
    assert_same_embeddings(layout, undisturbed)


@contextmanager
def head():
    """A cluster of a head alone, gone after the block."""
    started = Cluster.start(alone=True)
    try:
        yield started
    finally:
        started.end()


def test_a_run_whose_head_died_goes_on_when_it_is_submitted_to_another(undisturbed, tmp_path):
    job = ["run", *settings(tmp_path), "--no-env"]
    layout, log = RunLayout(tmp_path / "run"), tmp_path / "driver.log"
    with head() as first, driver(log, "submit", first.dashboard, *job) as process:
        wait_for_shards(layout, process, log)
        first.end()
    before = {path.name: path.stat().st_mtime_ns for path in shards(layout)}
    assert not layout.embeddings.exists()
    with head() as second:
        done = tradewind("submit", second.dashboard, *job)
    assert done.returncode == 0, done.stdout + done.stderr
    after = {path.name: path.stat().st_mtime_ns for path in shards(layout)}
    assert before.items() < after.items(), "shards that were there are kept as they were"
    assert_same_embeddings(layout, undisturbed)
    versions = [RouterBundle.load(of.policy).policy_version for of in (layout, undisturbed)]
    assert versions[0] == versions[1]
    metrics = [json.loads(of.metrics.read_text()) for of in (layout, undisturbed)]
    assert metrics[0] == metrics[1]
    assert json.loads(layout.registered.read_text())["version"] == "1", "registered once"
