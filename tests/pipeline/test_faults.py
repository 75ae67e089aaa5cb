"""Parts of a cluster and drivers are killed in the middle; what comes out must be what an undisturbed run gives."""

import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline import embed, ingest, route, train
from pipeline.compose import load_config, record_config
from pipeline.layout import RunLayout
from tests.pipeline.nodes import ENVIRONMENT, free_port, kill_all_of, start_node, wait_until

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "run.name=run",
    "data.example.n_prompts=300",
    "policy=ridge",
    "encoder.block_rows=4",
    "route.block_rows=16",
    "route.decision=sample",
)


def ingested(root):
    """Return the configuration and layout of a run of its own root, up to its tables."""
    overrides = [f"run.root={root}", *SETTINGS]
    config = load_config(overrides)
    record_config(config, overrides)
    ingest.run(config)
    return config, RunLayout.of(config)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, ray_session):
    """A run that nothing happened to, up to its decisions."""
    config, layout = ingested(tmp_path_factory.mktemp("undisturbed"))
    for stage in (embed, train, route):
        stage.run(config)
    return layout


@contextmanager
def driver_of(stage, layout, log, *overrides):
    """Run a stage in a process of its own, which does not outlive the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", stage, f"run={layout.root}", *overrides],
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def shards(layout):
    return sorted(layout.root.parent.glob("embeddings/*/*.parquet"))


def assert_same_embeddings(layout, expected):
    assert pq.read_table(layout.embeddings).equals(pq.read_table(expected.embeddings))
    stored = [h for path in shards(layout) for h in pq.read_table(path)["content_hash"].to_pylist()]
    wanted = pq.read_table(expected.embeddings)["content_hash"].to_pylist()
    assert sorted(stored) == sorted(set(wanted)), "every text is stored once"
    assert not list(layout.root.parent.rglob("*.tmp"))


@pytest.fixture
def two_nodes():
    """Folder and port of a cluster of two nodes with one CPU each: one encoder actor has to be on either."""
    folder, port = (
        Path(tempfile.mkdtemp(prefix="tw-")),
        free_port(),
    )  # short: socket paths are limited to 107 bytes
    started = (folder / "ray.log").read_text
    try:
        head = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")
        start_node(folder, *head, "--num-cpus=1")
        wait_until(lambda: "will now block" in started(), started)
        start_node(folder, f"--address=127.0.0.1:{port}", "--num-cpus=1", name="second")
        wait_until(lambda: started().count("will now block") == 2, started)
        yield folder, port
    finally:
        kill_all_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


def test_embedding_survives_the_loss_of_a_node(undisturbed, two_nodes, tmp_path):
    _, layout = ingested(tmp_path)
    folder, port = two_nodes
    log = tmp_path / "driver.log"
    with driver_of("embed", layout, log, f"cluster.address=127.0.0.1:{port}") as driver:
        wait_until(lambda: len(shards(layout)) >= 4 or driver.poll() is not None, log.read_text)
        assert driver.poll() is None, log.read_text()
        kill_all_of(folder, "second")
        # As an autoscaler would: another node takes the dead one's place.
        start_node(folder, f"--address=127.0.0.1:{port}", "--num-cpus=1", name="third")
        assert driver.wait(timeout=300) == 0, log.read_text()
    assert_same_embeddings(layout, undisturbed)


def test_embedding_goes_on_after_its_driver_was_killed(undisturbed, tmp_path):
    config, layout = ingested(tmp_path)
    log = tmp_path / "driver.log"
    with driver_of("embed", layout, log, "cluster.num_cpus=2") as driver:
        wait_until(lambda: len(shards(layout)) >= 4 or driver.poll() is not None, log.read_text)
        assert driver.poll() is None, log.read_text()
    before = len(shards(layout))
    assert not layout.embeddings.exists()
    embed.run(config)
    assert before < len(shards(layout))
    assert_same_embeddings(layout, undisturbed)


def test_routing_again_after_its_driver_was_killed_decides_the_same(undisturbed, tmp_path):
    output, log = tmp_path / "decisions.parquet", tmp_path / "driver.log"
    with driver_of("route", undisturbed, log, f"output={output}", "cluster.num_cpus=2") as driver:
        wait_until(lambda: "route:" in log.read_text() or driver.poll() is not None, log.read_text)
        assert driver.poll() is None, log.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["driver.log"], "nothing half-written"
    route.run(load_config([f"run={undisturbed.root}", f"output={output}"]))
    assert pl.read_parquet(output).equals(pl.read_parquet(undisturbed.decisions))
