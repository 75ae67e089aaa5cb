from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import embed
from pipeline.compose import load_config
from pipeline.embedding_store import DamagedShardError, EmbeddingStore
from pipeline.embedding_table import EmbeddingTable, read_embeddings, to_matrix, write_embeddings
from pipeline.layout import RunLayout
from pipeline.tables import write_table
from policies.bundle import EncoderIdentity
from policies.encoder import content_hash
from policies.errors import InputError
from policies.schemas import ENCODER_WEIGHTS_KEY, PROMPTS

REPOSITORY = Path(__file__).resolve().parents[2]
WHO = EncoderIdentity("toy", "ab" * 32, "torch-fp32", 4, 64)
OTHER = EncoderIdentity("toy", "cd" * 32, "torch-fp32", 4, 64)


def _config(root, *overrides):
    return load_config([f"run.root={root}", "encoder.block_rows=8", "encoder.num_actors=2", *overrides])


def _write_prompts(config, texts):
    ids = [f"p{i}" for i in range(len(texts))]
    table = pa.table([ids, texts, [None] * len(texts)], schema=PROMPTS.schema)
    write_table(table, str(RunLayout.of(config).prompts))
    return ids


def _shards(root):
    return {path.name: path.stat().st_mtime_ns for path in Path(root).glob("embeddings/*/*.parquet")}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, ray_session):
    """A root with one embedded run: 20 prompts, of which 4 repeat a text."""
    root = tmp_path_factory.mktemp("runs")
    config = _config(root, "run.name=first")
    texts = [f"Count to {i % 16}." for i in range(20)]
    ids = _write_prompts(config, texts)
    embed.run(config)
    return root, config, ids, texts


def test_every_prompt_has_its_vector_in_table_order(embedded):
    _, config, ids, texts = embedded
    from policies.encoder import load_encoder

    stored, vectors, identity = read_embeddings(RunLayout.of(config).embeddings)
    assert stored.tolist() == ids
    encoder = load_encoder("minilm", "auto", 256, 1024)
    assert identity == encoder.identity
    np.testing.assert_allclose(vectors, encoder.encode(texts), atol=1e-6)


def test_equal_texts_are_encoded_once(embedded):
    root, _, _, texts = embedded
    stored = [pq.read_table(path) for path in Path(root).glob("embeddings/*/*.parquet")]
    hashes = [h for table in stored for h in table["content_hash"].to_pylist()]
    assert sorted(hashes) == sorted({content_hash(text) for text in texts})


def test_the_table_names_its_encoder(embedded):
    _, config, _, _ = embedded
    (part,) = RunLayout.of(config).embeddings.glob("*.parquet")
    schema = pq.read_schema(part)
    assert schema.field("embedding").type == pa.list_(pa.float32(), 384)
    assert schema.metadata[ENCODER_WEIGHTS_KEY].startswith(b"53aa51172d14")


def test_another_run_encodes_only_what_is_new(embedded):
    root, _, _, texts = embedded
    before = _shards(root)
    config = _config(root, "run.name=second")
    _write_prompts(config, [*texts, "Only this one is new."])
    embed.run(config)
    after = _shards(root)
    assert before.items() <= after.items()
    (new,) = after.keys() - before.keys()
    (path,) = Path(root).glob(f"embeddings/*/{new}")
    assert pq.read_table(path)["content_hash"].to_pylist() == [content_hash("Only this one is new.")]


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_shard_is_encoded_again(embedded, damage, tmp_path, caplog):
    root, first, _, texts = embedded
    path = sorted(Path(root).glob("embeddings/*/*.parquet"))[0]
    body = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(body[: len(body) // 2])
    else:
        at = body.index(pq.read_table(path)["embedding"].chunk(0).flatten().to_numpy().tobytes()[:64])
        path.write_bytes(body[:at] + bytes(64) + body[at + 64 :])
    config = _config(root, f"run.name=after_{damage}")
    _write_prompts(config, texts)
    embed.run(config)
    np.testing.assert_allclose(
        read_embeddings(RunLayout.of(config).embeddings)[1],
        read_embeddings(RunLayout.of(first).embeddings)[1],
        atol=1e-6,
    )
    assert str(path) in caplog.text


def test_a_store_never_mixes_encoders(embedded):
    root, config, _, _ = embedded
    (folder,) = Path(root).glob("embeddings/*")
    foreign = EmbeddingStore(str(root), OTHER, "float32")
    name = foreign.write_shard([content_hash("x")], np.ones((1, 4), np.float32))
    moved = folder / name
    (Path(foreign.folder) / name).rename(moved)
    try:
        with pytest.raises(InputError, match=rf"{name}: vectors of .*cdcd"):
            embed.run(config)
    finally:
        moved.unlink()


def test_half_precision_by_option(embedded, tmp_path):
    _, _, _, texts = embedded
    config = _config(tmp_path, "encoder.dtype=float16")
    _write_prompts(config, texts[:3])
    embed.run(config)
    _, vectors, _ = read_embeddings(RunLayout.of(config).embeddings)
    assert vectors.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1.0, atol=2e-3)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, ray_session):
    config = _config(tmp_path, "run.name=killed", "encoder.num_actors=1")
    texts = [f"Item {i}: " + "list all the rivers of Europe by length and by name " * 4 for i in range(160)]
    ids = _write_prompts(config, texts)
    code = (
        "from pipeline import embed; from pipeline.compose import load_config; "
        f"embed.run(load_config(['run.root={tmp_path}', 'run.name=killed', 'encoder.block_rows=8', "
        "'encoder.num_actors=1', 'cluster.num_cpus=1']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    driver = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=REPOSITORY)
    try:
        deadline = time.monotonic() + 240
        while not _shards(tmp_path):
            assert driver.poll() is None, "the driver ended before its first shard"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    time.sleep(1.0)  # the dead driver's actors follow it
    survivors = _shards(tmp_path)
    assert 0 < len(survivors) < 20
    assert not RunLayout.of(config).embeddings.exists()
    embed.run(config)
    after = _shards(tmp_path)
    assert survivors.items() <= after.items()
    assert len(after) == 20
    stored, vectors, _ = read_embeddings(RunLayout.of(config).embeddings)
    assert stored.tolist() == ids
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("encoder.model=/no/such/folder", r"encoder\.model"),
        ("encoder.max_tokens=4096", r"encoder\.max_tokens"),
    ],
)
def test_an_encoder_that_cannot_be_had_is_an_input_error(tmp_path, override, key):
    config = _config(tmp_path, override)
    _write_prompts(config, ["a"])
    with pytest.raises(InputError, match=key):
        embed.run(config)
    assert not _shards(tmp_path)


def test_embed_without_prompts_names_the_stage(tmp_path):
    with pytest.raises(InputError, match="pipeline ingest"):
        embed.run(_config(tmp_path))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_matrix_is_a_view_of_the_arrow_buffer(tmp_path, dtype):
    vectors = np.random.default_rng(0).normal(size=(70_000, 4)).astype(dtype)
    ids = np.array([f"p{i}" for i in range(70_000)], dtype=object)
    write_embeddings(EmbeddingTable(ids, ids, vectors, WHO), tmp_path)
    stored, matrix, identity = read_embeddings(tmp_path)
    assert identity == WHO
    assert stored.tolist() == ids.tolist()
    np.testing.assert_array_equal(matrix, vectors)
    assert not matrix.flags.owndata
    column = pq.read_table(tmp_path / "part-00000.parquet")["embedding"]
    assert column.num_chunks == 1, "several chunks would have to be copied together"
    assert to_matrix(column).ctypes.data == column.chunk(0).values.buffers()[1].address


def test_tables_of_two_encoders_do_not_mix(tmp_path):
    ids = np.array(["a"], dtype=object)
    vectors = np.ones((1, 4), np.float32)
    write_embeddings(EmbeddingTable(ids, ids, vectors, WHO), tmp_path)
    (tmp_path / "part-00000.parquet").rename(tmp_path / "part-00001.parquet")
    write_embeddings(EmbeddingTable(ids, ids, vectors, OTHER), tmp_path)
    with pytest.raises(InputError, match="allowed: one encoder a table"):
        read_embeddings(tmp_path)


def test_a_table_without_an_encoder_is_refused(tmp_path):
    pl.DataFrame({"prompt_id": ["a"], "embedding": [[1.0]]}).write_parquet(tmp_path / "e.parquet")
    with pytest.raises(InputError, match=r"e\.parquet: not an embeddings table"):
        read_embeddings(tmp_path)


def test_a_truncated_table_is_refused(tmp_path):
    ids = np.array(["a"], dtype=object)
    write_embeddings(EmbeddingTable(ids, ids, np.ones((1, 4), np.float32), WHO), tmp_path)
    path = tmp_path / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"part-00000\.parquet: cannot be read"):
        read_embeddings(tmp_path)


def test_a_shard_damaged_after_indexing_is_discarded(tmp_path):
    store = EmbeddingStore(str(tmp_path), WHO, "float32")
    name = store.write_shard(["h"], np.ones((1, 4), np.float32))
    index = store.index()
    (Path(store.folder) / name).write_bytes(b"PAR1")
    with pytest.raises(DamagedShardError, match=name):
        store.gather(["h"], index)
    assert store.index().is_empty()


def test_leftovers_of_killed_runs_are_swept(tmp_path):
    store = EmbeddingStore(str(tmp_path), WHO, "float32")
    store.write_shard(["h"], np.ones((1, 4), np.float32))
    old, fresh = Path(store.folder) / "a.tmp", Path(store.folder) / "b.tmp"
    for path in (old, fresh):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    store.index()
    assert not old.exists()
    assert fresh.exists()
