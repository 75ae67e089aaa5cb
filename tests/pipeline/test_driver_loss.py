"""The driver of a stage is killed in the middle and started again: the result is that of an undisturbed run.

Each stage is killed several times over, at a moment given to the system call: as a file gets its name, is opened, or as
a statement goes to the tracker's database. What it then leaves is, byte for byte and file for file, what it leaves
when nothing happens.
"""

import hashlib
import multiprocessing
import os
import re
import shutil
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from mlflow.tracking import MlflowClient
from sqlalchemy import event
from sqlalchemy.engine import Engine

from pipeline.__main__ import main
from pipeline.compose import load_config
from pipeline.embedding_store import EmbeddingStore
from pipeline.layout import RunLayout
from policies.bundle import RouterBundle
from policies.encoder import content_hash, encoder_identity
from serve.registry import find_bundle
from serve.settings import ServeSettings

BACKEND = "torch-fp32"
SETTINGS = (
    "run.name=work",
    "data.example.n_prompts=200",
    "pool.name=budget",
    f"encoder.backend={BACKEND}",
    "train.mode=logged",
    "policy.members=2",
    "policy.logged.epochs=3",
    "evaluate.bootstrap_samples=20",
    "evaluate.baselines=[]",
    "route.decision=sample",
)


@dataclass(frozen=True)
class Moment:
    """Just before something happens: ``rename`` to a file's name, ``write`` to a file, or ``sql`` statement.

    Attributes:
        event: what is waited for.
        pattern: of the file's name or of the statement, from its start.
        number: the first, second ... of its kind.
    """

    event: str
    pattern: str
    number: int = 1


STAGES = {
    "ingest": (
        Moment("rename", "config.yaml"),
        Moment("rename", "source.json"),
        Moment("rename", "outcomes.parquet"),
        Moment("rename", "splits.parquet"),
    ),
    "embed": (
        Moment("rename", "part-00000.parquet"),
        Moment("rename", "embeddings$"),
        Moment("rename", "splits"),
    ),
    "simulate": (Moment("rename", "feedback.parquet"),),
    "train": (Moment("write", "history.jsonl", 3), Moment("rename", "policy$")),
    "evaluate": (Moment("rename", "test_decisions.parquet"), Moment("rename", "report.png")),
    "route": (Moment("rename", "decisions.parquet"),),
}
"""Stages in the order of a run, and the moments at which each is killed, one after the other."""


def die_at(moment):
    """Make this process kill itself at a moment."""
    left = moment.number

    def count(text):
        nonlocal left
        if re.match(moment.pattern, text):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(name, arguments):
        if name == "os.rename" and moment.event == "rename":
            count(Path(os.fsdecode(arguments[1])).name)
        elif name == "open" and moment.event == "write" and isinstance(arguments[0], str | os.PathLike):
            path, _, flags = arguments
            count(Path(path).name if flags & (os.O_WRONLY | os.O_RDWR) else "")

    sys.addaudithook(hook)
    if moment.event == "sql":
        event.listen(Engine, "before_cursor_execute", lambda _, __, statement, *___: count(statement.strip()))


def die_in(arguments, moment, log):
    with log.open("a") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    die_at(moment)
    sys.exit(main(arguments))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Return what runs a stage in a process of its own until a moment at which that is killed."""
    # Forked from a process that has imported everything: importing would take longer than the stages.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [f"pipeline.{stage}" for stage in (*STAGES, "register")] + ["mlflow", __name__]
    )
    log = tmp_path_factory.mktemp("logs") / "driver.log"

    def until(moment, *arguments):
        process = context.Process(target=die_in, args=(arguments, moment, log))
        process.start()
        process.join(240)
        assert process.exitcode == -signal.SIGKILL, log.read_text()

    return until


def contents(folder):
    """Return the hash of every file below a folder by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    } | {f"{path.relative_to(folder)}/": "" for path in folder.rglob("*") if path.is_dir()}


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to: copies of its folder after each stage, and where the folder itself was."""

    root: Path
    work: Path
    cluster: str

    def after(self, stage):
        return self.root / "after" / stage

    def arguments(self, stage):
        first = stage == next(iter(STAGES))
        return [
            stage,
            *((f"run.root={self.root}", *SETTINGS) if first else (f"run={self.work}",)),
            self.cluster,
        ]

    def back_to(self, stage):
        """Make the run's folder what it was just before a stage."""
        shutil.rmtree(self.work, ignore_errors=True)
        stages = [*STAGES, "register"]
        earlier = stages[: stages.index(stage)]
        if earlier:
            shutil.copytree(self.after(earlier[-1]), self.work)


@pytest.fixture(scope="module")
def undisturbed(ray_session, tmp_path_factory):
    import ray

    root = tmp_path_factory.mktemp("undisturbed")
    run = Undisturbed(root, root / "work", f"cluster.address={ray.get_runtime_context().gcs_address}")
    for stage in STAGES:
        assert main(run.arguments(stage)) == 0
        shutil.copytree(run.work, run.after(stage))
        if stage == "ingest":
            fill_store(root, RunLayout(run.work))
    return run


def fill_store(root, layout):
    """Put vectors of the run's prompts where embed and route find them: what encoding survives is tested elsewhere."""
    hashes = sorted({content_hash(text) for text in pl.read_parquet(layout.prompts)["prompt"]})
    identity = encoder_identity("minilm", BACKEND, load_config([]).encoder.max_tokens)
    vectors = np.random.default_rng(0).normal(size=(len(hashes), identity.dimension)).astype(np.float32)
    EmbeddingStore(str(root / "embeddings"), identity, "float32").write_shard(hashes, vectors)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_and_started_again_leaves_what_an_undisturbed_one_does(undisturbed, killed, stage):
    undisturbed.back_to(stage)
    for moment in STAGES[stage]:
        killed(moment, *undisturbed.arguments(stage))
    assert contents(undisturbed.work) != contents(undisturbed.after(stage)), "the test would prove nothing"
    assert main(undisturbed.arguments(stage)) == 0
    assert contents(undisturbed.work) == contents(undisturbed.after(stage))


def test_a_registration_killed_and_started_again_serves_one_whole_policy(undisturbed, killed, tmp_path):
    undisturbed.back_to("register")
    uri, model = f"sqlite:///{tmp_path}/mlflow.db", "tradewind-router"
    arguments = ["register", f"run={undisturbed.work}", f"run.root={tmp_path}"]
    # The first registration of all makes the tracker's tables.
    killed(Moment("sql", "UPDATE alembic_version", 40), *arguments)
    policy = RouterBundle.load(undisturbed.work / "policy")
    earlier = replace(policy, tau_usd=2 * policy.tau_usd).save(tmp_path / "earlier" / "policy")
    assert main(["register", f"run.root={tmp_path}", "run.name=earlier"]) == 0
    client = MlflowClient(uri, uri)

    def served(name):
        found = find_bundle(ServeSettings(tracking_uri=uri, cache_dir=str(tmp_path / "served" / name)))
        folder = tmp_path / "earlier" if found.name == earlier else undisturbed.work
        assert contents(found) == contents(folder / "policy")
        return found.name

    aliases = r"(INSERT INTO|UPDATE) registered_model_aliases"
    for number, (moment, champion) in enumerate(
        (
            (Moment("rename", "report.html"), earlier),
            (Moment("sql", "INSERT INTO model_versions"), earlier),
            (Moment("sql", aliases), earlier),
            (Moment("sql", aliases, 2), earlier),
            (Moment("rename", "registered.json"), policy.policy_version),
        )
    ):
        killed(moment, *arguments)
        assert served(str(number)) == champion
    assert main(arguments) == 0
    assert served("last") == policy.policy_version
    versions = {v.tags["policy_version"]: v for v in client.search_model_versions(f"name = '{model}'")}
    assert sorted(str(v.version) for v in versions.values()) == ["1", "2"], "each policy is registered once"
    assert client.get_model_version_by_alias(model, "previous").version == versions[earlier].version
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = {run.info.run_id: run.info.status for run in client.search_runs(experiments)}
    assert runs.pop(versions[policy.policy_version].run_id) == "FINISHED"
    assert "RUNNING" not in runs.values(), "nothing waits for a registration that is dead"
