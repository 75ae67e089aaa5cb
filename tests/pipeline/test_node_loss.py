"""Drivers, nodes and heads of a cluster are killed in the middle of a stage.

What comes out after a loss must be what an undisturbed run gives, bit for bit.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline import embed, ingest, route
from pipeline.__main__ import main
from pipeline.compose import load_config, record_config
from pipeline.layout import RunLayout
from pipeline.search.results import read_records
from pipeline.search.spec import SearchFolder
from policies.bundle import RouterBundle
from tests.pipeline.clusters import Cluster, driver, tradewind, wait_for
from tests.pipeline.nodes import wait_until
from tests.pipeline.test_actor_loss import Decided


def settings(root):
    return [
        f"run.root={root}",
        "run.name=run",
        "data.example.n_prompts=300",
        "policy=outcome_model",
        "policy.members=2",
        "policy.simulated_online.epochs=30",
        "encoder.block_rows=4",
        "route.block_rows=1",
        "route.w_costs=[0.0,0.3]",
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


def shards(layout):
    return sorted(layout.root.parent.glob("embeddings/*/*.parquet"))


def embedding(layout):
    return lambda: len(shards(layout)) >= 4


def training(layout):
    return lambda: layout.history.exists() and layout.history.read_text().count("\n") >= 3


def lose_a_node(cluster):
    """As an autoscaler would: another node takes the dead one's place."""
    cluster.lose("second")
    cluster.add_node("second")


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
        wait_for(embedding(layout), process, log)
    before = len(shards(layout))
    assert not layout.embeddings.exists()
    embed.run(config)
    assert before < len(shards(layout))
    assert_same_embeddings(layout, undisturbed)


def test_embedding_survives_the_loss_of_a_node(undisturbed, cluster, tmp_path):
    _, layout = up_to_tables(tmp_path, cluster)
    log = tmp_path / "driver.log"
    with driver(log, "embed", f"run={layout.root}") as process:
        wait_for(embedding(layout), process, log)
        lose_a_node(cluster)
        assert process.wait(timeout=300) == 0, log.read_text()
    assert_same_embeddings(layout, undisturbed)


def test_training_survives_the_loss_of_a_learners_node(undisturbed, cluster, tmp_path):
    """Two learners, one on either node, that average their gradients."""
    learned = []
    for name in ("whole", "disturbed"):
        layout, log = RunLayout(tmp_path / name), tmp_path / f"{name}.log"
        shutil.copytree(undisturbed.root, layout.root)
        layout.history.unlink()
        with driver(log, "train", f"run={layout.root}", "train.num_learners=2", cluster.address) as process:
            if name == "disturbed":
                wait_for(training(layout), process, log)
                lose_a_node(cluster)
            assert process.wait(timeout=300) == 0, log.read_text()
        assert ("a learner died" in log.read_text()) is (name == "disturbed")
        learned.append((RouterBundle.load(layout.policy).policy_version, layout.history.read_text()))
    assert learned[0] == learned[1]


def test_a_search_survives_the_loss_of_a_trials_node(undisturbed, cluster, tmp_path):
    """Two trials, one on either node."""
    arguments = (
        "tune.space={policy.lr:{low:1e-4,high:1e-2,log:true}}",
        "tune.searcher=random",
        "tune.num_samples=2",
        "tune.grace_epochs=60",
        "tune.max_epochs=60",
        "tune.checkpoint_epochs=5",
        "tune.retrain=false",
        cluster.address,
    )
    found = []
    for name in ("whole", "disturbed"):
        layout, log = RunLayout(tmp_path / name), tmp_path / f"{name}.log"
        shutil.copytree(undisturbed.root, layout.root)

        folder = SearchFolder(layout.root / "tune")

        def both_have_a_checkpoint(trials=folder.trials):
            return sum('"epoch": 8' in path.read_text() for path in trials.glob("*/result.json")) == 2

        with driver(log, "tune", f"run={layout.root}", *arguments) as process:
            if name == "disturbed":
                wait_for(both_have_a_checkpoint, process, log)
                lose_a_node(cluster)
            assert process.wait(timeout=300) == 0, log.read_text()
        trials = read_records(folder.results)
        found.append(sorted((trial.values["policy.lr"], trial.reward, trial.epochs) for trial in trials))
    assert found[0] == found[1]


def test_routing_again_after_its_driver_was_killed_decides_the_same(undisturbed, cluster, tmp_path):
    output, log = tmp_path / "decisions.parquet", tmp_path / "driver.log"
    arguments = [f"run={undisturbed.root}", f"output={output}"]
    with driver(log, "route", *arguments, cluster.address) as process:
        wait_for(lambda: "route:" in log.read_text(), process, log)
    assert [path.name for path in tmp_path.iterdir()] == ["driver.log"], "nothing half-written"
    route.run(load_config([*arguments, cluster.address]))
    assert pl.read_parquet(output).equals(pl.read_parquet(undisturbed.decisions))


def test_routing_survives_the_loss_of_a_node(undisturbed, cluster, tmp_path, monkeypatch):
    output, decided = tmp_path / "decisions.parquet", Decided()
    expected = pl.read_parquet(undisturbed.decisions)
    prompts = len(expected) // 2

    def disturb():
        wait_until(lambda: decided.rows >= 20, lambda: f"{decided.rows} prompts decided")
        cluster.lose("second")
        decided_before = decided.rows
        cluster.add_node("second")
        return decided_before

    monkeypatch.setattr(route, "progress", lambda *_, **__: decided)
    with ThreadPoolExecutor(1) as pool:
        disturbed = pool.submit(disturb)
        route.run(load_config([f"run={undisturbed.root}", f"output={output}", cluster.address]))
    assert disturbed.result() < prompts
    assert pl.read_parquet(output).equals(expected)


@contextmanager
def head():
    """A cluster of a head alone, gone after the block."""
    started = Cluster.start(alone=True)
    try:
        yield started
    finally:
        started.end()


def test_a_run_whose_heads_died_goes_on_when_it_is_submitted_to_another(undisturbed, tmp_path):
    """The first dies while it embeds, the second while it trains."""
    job = ["run", *settings(tmp_path), "--no-env"]
    layout = RunLayout(tmp_path / "run")
    written = {}
    for under_way in (embedding, training):
        log = tmp_path / f"{under_way.__name__}.log"
        with head() as lost, driver(log, "submit", lost.dashboard, *job) as process:
            wait_for(under_way(layout), process, log)
            lost.end()
        before = written
        written = {path.name: path.stat().st_mtime_ns for path in shards(layout)}
        assert before.items() < written.items(), "shards that were there are kept as they were"
        assert not layout.policy.exists()
    with head() as last:
        done = tradewind("submit", last.dashboard, *job)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_embeddings(layout, undisturbed)
    versions = [RouterBundle.load(of.policy).policy_version for of in (layout, undisturbed)]
    assert versions[0] == versions[1]
    metrics = [json.loads(of.metrics.read_text()) for of in (layout, undisturbed)]
    assert metrics[0] == metrics[1]
    assert json.loads(layout.registered.read_text())["version"] == "1", "registered once"
