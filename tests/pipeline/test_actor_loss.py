"""A process of an actor pool is killed in the middle of a stage: the result is that of an undisturbed run."""

import threading
from contextlib import contextmanager, nullcontext, suppress

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import embed, route
from pipeline.compose import load_config
from pipeline.embedding_store import EmbeddingStore
from pipeline.layout import RunLayout
from pipeline.tables import write_table
from policies.bundle import RouterBundle
from policies.constants import RandomPolicy
from policies.costs import CostModel
from policies.encoder import content_hash, encoder_identity
from policies.pool import read_pool_file
from policies.schemas import PROMPTS

N_PROMPTS = 160
SETTINGS = ("encoder.backend=torch-fp32", "encoder.num_actors=1", "encoder.block_rows=8")
TEXTS = [f"Count from {i} to {3 * i} in steps of {i % 7 + 1}." for i in range(N_PROMPTS)]


def actors():
    """Return the processes in which Ray Data runs a stage's class and is at work."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # others come and go
            if "".join(process.cmdline()).startswith("ray::MapWorker"):
                found.append(process)
    return found


@contextmanager
def losing_an_actor(when):
    """Kill one as soon as ``when()`` holds, within the block."""
    killed, over = [], threading.Event()
    earlier = {process.pid for process in actors()}

    def kill():
        while not killed and not over.wait(0.01):
            running = [process for process in actors() if process.pid not in earlier] if when() else []
            with suppress(psutil.NoSuchProcess, IndexError):
                running[0].kill()
                killed.append(running[0].pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        over.set()
        killer.join()
    assert len(killed) == 1


def prompts_of(config):
    table = pa.table([[f"p{i}" for i in range(N_PROMPTS)], TEXTS, [None] * N_PROMPTS], schema=PROMPTS.schema)
    write_table(table, str(RunLayout.of(config).prompts))
    return RunLayout.of(config)


def test_embed_survives_the_loss_of_its_encoder(ray_session, tmp_path):
    shards, stored = [], []
    for name, disturbed in (("whole", False), ("disturbed", True)):
        config = load_config([f"run.root={tmp_path / name}", *SETTINGS])
        layout = prompts_of(config)
        written = (tmp_path / name / "embeddings").rglob
        if disturbed:
            with losing_an_actor(lambda written=written: len(list(written("*.parquet"))) >= 4):
                embed.run(config)
        else:
            embed.run(config)
        shards.append(sorted(path.name for path in written("*.parquet")))
        stored.append(pq.read_table(layout.embeddings))
    assert shards[0] == shards[1], "no shard is lost or doubled"
    assert stored[0].equals(stored[1])


class Decided(nullcontext):
    """Stands in for the progress bar and counts."""

    rows = 0

    def __enter__(self):
        return self

    def update(self, rows):
        self.rows += rows


def test_route_survives_the_loss_of_an_actor(ray_session, tmp_path, monkeypatch):
    config = load_config([f"run.root={tmp_path}", *SETTINGS, "route.block_rows=1", "route.decision=sample"])
    layout = prompts_of(config)
    identity = encoder_identity("minilm", "torch-fp32", config.encoder.max_tokens)
    vectors = np.random.default_rng(0).normal(size=(N_PROMPTS, identity.dimension)).astype(np.float32)
    hashes = [content_hash(text) for text in TEXTS]
    EmbeddingStore(str(tmp_path / "embeddings"), identity, "float32").write_shard(hashes, vectors)
    pool = read_pool_file(config.pool.path).pool(config.pool.name)
    free = CostModel(pool.prices_per_token_usd, 10.0, np.zeros(len(pool.models)))
    RouterBundle(RandomPolicy(pool.models), pool, identity, free, tau_usd=0.01).save(layout.policy)
    route.run(config)
    expected = pq.read_table(layout.decisions)
    layout.decisions.unlink()
    decided = Decided()
    monkeypatch.setattr(route, "progress", lambda *_, **__: decided)
    with losing_an_actor(lambda: decided.rows >= 20):
        route.run(config)
    assert pq.read_table(layout.decisions).equals(expected)
