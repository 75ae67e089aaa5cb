from __future__ import annotations

import hashlib
import json
import os
import resource
import time
from pathlib import Path

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from pipeline import embed, embedding_parts, encode, served_log
from pipeline.compose import load_config
from pipeline.embedding_store import DamagedShardError, EmbeddingStore
from pipeline.embedding_table import (
    MANIFEST,
    EmbeddingTable,
    read_embeddings,
    to_matrix,
    vectors_of,
    write_embeddings,
)
from pipeline.layout import RunLayout
from pipeline.prompt_stream import PromptStream
from pipeline.tables import write_table
from pipeline.text_digests import KeyIndex, first_occurrences, keys_of_hashes
from policies.bundle import EncoderIdentity
from policies.encoder import content_hash, encoder_identity, load_encoder
from policies.errors import InputError
from policies.leftovers import this_process
from policies.schemas import ENCODER_WEIGHTS_KEY, PROMPTS
from tests.policies.leftovers_case import gone_process, left_by

WHO = EncoderIdentity("toy", "ab" * 32, "torch-fp32", 4, 64)
OTHER = EncoderIdentity("toy", "cd" * 32, "torch-fp32", 4, 64)


def _config(root, *overrides):
    return load_config([f"run.root={root}", "encoder.block_rows=8", "encoder.num_actors=1", *overrides])


def _write_prompts(config, texts):
    ids = [f"p{i}" for i in range(len(texts))]
    table = pa.table([ids, texts, [None] * len(texts)], schema=PROMPTS.schema)
    write_table(table, str(RunLayout.of(config).prompts), row_group_rows=9)
    return ids


def _shards(root):
    return {path.name: path.stat().st_mtime_ns for path in Path(root).glob("embeddings/*/*.parquet")}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, ray_session):
    """A root with one embedded run: 20 prompts in three row groups, of which 4 repeat a text of another group."""
    root = tmp_path_factory.mktemp("runs")
    config = _config(root, "run.name=first", "encoder.num_actors=2")
    texts = [f"Count to {i % 16}." for i in range(20)]
    ids = _write_prompts(config, texts)
    embed.run(config)
    return root, config, ids, texts


def test_every_prompt_has_its_vector_in_table_order(embedded):
    _, config, ids, texts = embedded
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
    config = _config(root, "run.name=second", "encoder.max_actors=2")
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


def test_a_run_that_was_interrupted_goes_on_bit_for_bit(embedded):
    root, config, _, texts = embedded
    layout = RunLayout.of(config)
    whole, before = pq.read_table(layout.embeddings), _shards(root)
    own = {content_hash(text) for text in texts}
    shards = sorted(Path(root).glob("embeddings/*/*.parquet"))
    lost = [path for path in shards if own.issuperset(pq.read_table(path)["content_hash"].to_pylist())][::2]
    for path in lost:
        path.unlink()
    embed.run(config)
    after = _shards(root)
    assert after.keys() == before.keys(), "the same shards are formed again"
    kept = before.keys() - {path.name for path in lost}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert pq.read_table(layout.embeddings).equals(whole)


def test_a_window_that_is_tried_again_leaves_finished_shards(tmp_path):
    identity = encoder_identity("minilm", "auto", 256)
    store = EmbeddingStore(str(tmp_path), identity, "float32")
    actor = encode.ShardEncoder(store, _config(tmp_path, "encoder.block_rows=2").encoder, "")
    block = pa.table({"prompt": ["one", "three", "two", "seventeen"]})
    assert [done["rows"].to_pylist() for done in actor(block)] == [[2], [2]]
    first = {path: path.stat().st_mtime_ns for path in Path(store.folder).iterdir()}
    sorted(first)[0].unlink()
    assert [done["rows"].to_pylist() for done in actor(block)] == [[2], [2]]
    again = {path: path.stat().st_mtime_ns for path in Path(store.folder).iterdir()}
    assert again.keys() == first.keys()
    assert again[sorted(first)[1]] == first[sorted(first)[1]]


def test_the_manifest_tells_counts_hashes_and_encoder(embedded):
    root, _, _, texts = embedded
    config = _config(root, "run.name=counted")
    new = [*texts, "A text that no other run has.", "A text that no other run has."]
    _write_prompts(config, new)
    embed.run(config)
    folder = RunLayout.of(config).embeddings
    manifest = json.loads((folder / MANIFEST).read_text())
    files = manifest.pop("files")
    assert [(file["name"], file["rows"]) for file in files] == [("part-00000.parquet", len(new))]
    body = (folder / files[0]["name"]).read_bytes()
    assert (files[0]["bytes"], files[0]["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    identity = read_embeddings(folder)[2]
    assert EncoderIdentity(**manifest.pop("encoder")) == identity
    assert manifest == {
        "rows": 22,
        "distinct_texts": 17,
        "encoded": 1,
        "reused": 16,
        "dtype": "float32",
    }


@pytest.mark.parametrize("alone", [1, 3], ids=["by Ray tasks", "by the driver"])
def test_a_large_table_is_several_parts_of_equal_size(embedded, monkeypatch, alone):
    root, first, ids, texts = embedded
    monkeypatch.setattr(embedding_parts, "PART_ROWS", 7)
    monkeypatch.setattr(embedding_parts, "PARTS_ALONE", alone)
    config = _config(root, f"run.name=parts{alone}")
    _write_prompts(config, texts)
    embed.run(config)
    folder = RunLayout.of(config).embeddings
    parts = [pq.ParquetFile(path) for path in sorted(folder.glob("*.parquet"))]
    assert [part.metadata.num_rows for part in parts] == [6, 7, 7]
    assert [part.num_row_groups for part in parts] == [1, 1, 1]
    stored, vectors, _ = read_embeddings(folder)
    assert stored.tolist() == ids
    np.testing.assert_array_equal(vectors, read_embeddings(RunLayout.of(first).embeddings)[1])

    monkeypatch.undo()
    embed.run(config)
    assert [path.name for path in folder.glob("*.parquet")] == ["part-00000.parquet"], (
        "the old parts are gone"
    )


def test_a_table_that_lost_a_part_is_refused(embedded):
    _, config, ids, _ = embedded
    folder = RunLayout.of(config).embeddings
    vectors = np.ones((1, 384), np.float32)
    extra = EmbeddingTable(
        np.array(["x"], object), np.array(["x"], object), vectors, read_embeddings(folder)[2]
    )
    (folder / "part-00000.parquet").rename(folder / "held")
    write_embeddings(extra, folder)
    try:
        with pytest.raises(
            InputError, match=rf"part-00000\.parquet has 1 rows, but {MANIFEST} tells of {len(ids)}"
        ):
            read_embeddings(folder)
        with pytest.raises(InputError, match=r"part-00000\.parquet has 1 rows"):
            vectors_of(folder, pl.Series(ids))
    finally:
        (folder / "held").rename(folder / "part-00000.parquet")


def test_a_table_too_large_to_group_keeps_its_splits_and_says_so(embedded, monkeypatch, capsys):
    root, _, _, texts = embedded
    config = _config(root, "run.name=large")
    ids = _write_prompts(config, texts)
    splits = pl.DataFrame({"prompt_id": ids, "split": ["train"] * len(ids)})
    splits.write_parquet(RunLayout.of(config).splits)
    monkeypatch.setattr(embed, "MOST_GROUPED", 5)
    embed.run(config)
    assert "20 prompts are more than 5: paraphrases are not looked for" in capsys.readouterr().out
    assert pl.read_parquet(RunLayout.of(config).splits).equals(splits)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=5).filter(any), st.integers(1, 40))
def test_windows_cover_the_table_and_stay_in_their_row_group(sizes, block_rows):
    groups = [(sum(sizes[:i]), rows) for i, rows in enumerate(sizes)]
    windows = encode.cut_windows(groups, block_rows)
    assert [row for w in windows for row in range(w.start, w.stop)] == list(range(sum(sizes)))
    for window in windows:
        first, rows = groups[window.group]
        assert first <= window.start < window.stop <= first + rows
        assert window.stop - window.start <= encode.WINDOW_SHARDS * block_rows


@given(st.lists(st.text(max_size=12), max_size=40), st.integers(1, 9))
def test_shards_hold_every_text_once_the_shortest_first(texts, block_rows):
    slices = encode.shard_slices(texts, block_rows)
    rows = [row for part in slices for row in part]
    assert sorted(rows) == list(range(len(texts)))
    assert [len(texts[row]) for row in rows] == sorted(map(len, texts))
    assert all(len(part) == block_rows for part in slices[:-1])


@given(st.integers(1, 10_000), st.integers(1, 500))
def test_parts_are_balanced(rows, part_rows):
    edges = embedding_parts.part_edges(rows, part_rows)
    sizes = [stop - start for start, stop in edges]
    assert sum(sizes) == rows == edges[-1][1]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= part_rows
    assert len(sizes) == -(-rows // part_rows)


@pytest.mark.parametrize(
    ("overrides", "resources", "size", "gpus"),
    [
        (["encoder.num_actors=4"], {"CPU": 8.0}, (4, 4), None),
        (["encoder.num_actors=4"], {"CPU": 2.0}, (2, 2), None),
        (["encoder.num_actors=4"], {"CPU": 64.0}, (4, 4), None),
        (["encoder.num_actors=1", "encoder.max_actors=6"], {"CPU": 2.0}, (1, 6), None),
        (["encoder.num_actors=1", "encoder.max_actors=60"], {"CPU": 2.0}, (1, 10), None),
        (["encoder.num_actors=4", "encoder.num_gpus_per_actor=1"], {"CPU": 9.0, "GPU": 2.0}, (2, 2), 1),
        (["encoder.num_actors=4", "encoder.num_gpus_per_actor=0.5"], {"CPU": 9.0, "GPU": 2.0}, (4, 4), 0.5),
    ],
)
def test_what_ray_data_is_asked_for(overrides, resources, size, gpus):
    options = encode.pool_options(load_config(overrides).encoder, resources, n_blocks=10)
    pool = options["compute"]
    assert (pool.min_size, pool.max_size) == size
    assert options["num_cpus"] == 1
    assert options.get("num_gpus") == gpus


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder.num_actors=3", "encoder.max_actors=2"], "max_actors=2 is below encoder.num_actors=3"),
        (["encoder.backend=torch-cuda-fp16"], "needs encoder.num_gpus_per_actor above 0"),
        (["encoder.backend=torch-fp32", "encoder.num_gpus_per_actor=1"], "torch-fp32 runs on the CPU"),
    ],
)
def test_actors_that_contradict_themselves_are_refused(overrides, message):
    with pytest.raises(InputError, match=message):
        load_config(overrides)


def test_vectors_of_a_gpu_have_a_store_of_their_own_and_need_a_gpu(embedded):
    root, _, _, texts = embedded
    before = _shards(root)
    config = _config(root, "run.name=gpu", "encoder.num_gpus_per_actor=1")
    _write_prompts(config, texts)
    with pytest.raises(InputError, match=r"encoder\.num_gpus_per_actor=1: this machine has 0 GPUs"):
        embed.run(config)
    assert _shards(root) == before, "shards of another backend are no substitute"
    assert not RunLayout.of(config).embeddings.exists()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30), st.data())
def test_a_key_is_found_where_it_was_first(pairs, data):
    keys = np.array(pairs, dtype=np.uint64).reshape(-1, 2)
    asked = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=20))
    found = KeyIndex.of(keys).find(np.array(asked, dtype=np.uint64).reshape(-1, 2))
    assert found.tolist() == [pairs.index(pair) if pair in pairs else -1 for pair in asked]
    assert first_occurrences(keys).tolist() == [pairs.index(pair) == i for i, pair in enumerate(pairs)]


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


def test_imported_vectors_are_stored_once_whichever_file_they_are_in(tmp_path, monkeypatch):
    monkeypatch.setattr(served_log, "SHARD_ROWS", 3)
    store = EmbeddingStore(str(tmp_path / "store"), WHO, "float32")
    held, *others = [content_hash(str(i)) for i in range(9)]
    store.write_shard([held], np.zeros((1, 4), np.float32))
    for number, rows in enumerate(([0, 1, 2, 3, 1, 4], [4, 5, 0, 6, 7, 8])):
        hashes = np.array([[held, *others][row] for row in rows], dtype=object)
        vectors = np.repeat(np.array(rows, np.float32)[:, None], 4, axis=1)
        folder = tmp_path / f"table-{number}"
        write_embeddings(EmbeddingTable(hashes, hashes, vectors, WHO), folder)
        (tmp_path / "table").mkdir(exist_ok=True)
        (folder / "part-00000.parquet").rename(tmp_path / "table" / f"{number}.parquet")
    served_log.import_vectors(str(tmp_path / "table"), store)
    parts = [pq.read_table(path) for path in Path(store.folder).iterdir()]
    assert sorted(h for part in parts for h in part["content_hash"].to_pylist()) == sorted([held, *others])
    index = store.index()
    stored = store.gather(index.places(keys_of_hashes([held, *others], "the test")))
    assert stored[:, 0].tolist() == list(range(9))


def test_a_table_of_two_encoders_is_not_imported_in_part(tmp_path):
    store = EmbeddingStore(str(tmp_path / "store"), WHO, "float32")
    hashes = np.array([content_hash("a")], dtype=object)
    for name, who in (("0", WHO), ("1", OTHER)):
        write_embeddings(
            EmbeddingTable(hashes, hashes, np.ones((1, 4), np.float32), who), tmp_path / "t" / name
        )
    with pytest.raises(InputError, match="allowed: one encoder a table"):
        served_log.import_vectors(str(tmp_path / "t"), store)
    assert len(store.index()) == 0


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
    hashes = [content_hash("h")]
    name = store.write_shard(hashes, np.ones((1, 4), np.float32))
    places = store.index().places(keys_of_hashes(hashes, "the test"))
    (Path(store.folder) / name).write_bytes(b"PAR1")
    with pytest.raises(DamagedShardError, match=name):
        store.gather(places)
    assert len(store.index()) == 0


def test_a_shard_that_cannot_be_opened_for_now_is_kept(tmp_path):
    store = EmbeddingStore(str(tmp_path), WHO, "float32")
    hashes = [content_hash("h")]
    store.write_shard(hashes, np.ones((1, 4), np.float32))
    places = store.index().places(keys_of_hashes(hashes, "the test"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            store.gather(places)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert store.holds(hashes)


class SlowFiles(LocalFileSystem):
    """Files that take 10 ms to open, as those of an object store do, and how many were being opened at once."""

    protocol = "slow"
    opening = 0
    most = 0

    def _open(self, path, *args, **kwargs):
        SlowFiles.opening += 1
        SlowFiles.most = max(SlowFiles.most, SlowFiles.opening)
        time.sleep(0.01)
        SlowFiles.opening -= 1
        return super()._open(path, *args, **kwargs)


def test_a_slow_stores_shards_are_read_side_by_side_and_kept_in_order(tmp_path, monkeypatch):
    fsspec.register_implementation("slow", SlowFiles, clobber=True)
    hashes = [content_hash(f"text {i}") for i in range(120)]
    vectors = np.arange(480, dtype=np.float32).reshape(120, 4)
    local = EmbeddingStore(str(tmp_path), WHO, "float32")
    names = [local.write_shard(hashes[i : i + 3], vectors[i : i + 3]) for i in range(0, 120, 3)]
    damaged = Path(local.folder) / names[5]
    damaged.write_bytes(damaged.read_bytes()[:40])
    slow = EmbeddingStore(f"slow://{tmp_path}", WHO, "float32")
    monkeypatch.setattr(SlowFiles, "most", 0)
    index = slow.index()
    assert SlowFiles.most > 1
    assert [Path(path).name for path in index.files] == sorted({*names} - {names[5]})
    assert not damaged.exists()
    keys = keys_of_hashes(hashes, "the test")
    assert np.flatnonzero(index.lacks(keys)).tolist() == [15, 16, 17]
    rows = np.random.default_rng(0).permutation(np.setdiff1d(np.arange(120), [15, 16, 17]))
    monkeypatch.setattr(SlowFiles, "most", 0)
    np.testing.assert_array_equal(slow.gather(index.places(keys[rows])), vectors[rows])
    assert SlowFiles.most > 1


def test_leftovers_of_killed_runs_are_swept(tmp_path):
    store = EmbeddingStore(str(tmp_path), WHO, "float32")
    store.write_shard([content_hash("h")], np.ones((1, 4), np.float32))
    old, fresh = Path(store.folder) / "a.tmp", Path(store.folder) / "b.tmp"
    for path in (old, fresh):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    store.index()
    assert not old.exists()
    assert fresh.exists()


def test_two_writers_of_one_table_do_not_take_each_other_s_parts(tmp_path):
    """A lost task's part may still be written when it is tried again, and a lost driver's table likewise."""
    store, folder = EmbeddingStore(str(tmp_path / "store"), WHO, "float32"), tmp_path / "run" / "embeddings"
    texts = ["one", "two"]
    hashes = [content_hash(text) for text in texts]
    store.write_shard(hashes, np.eye(2, 4, dtype=np.float32))
    config = _config(tmp_path, f"run.dir={tmp_path / 'run'}")
    _write_prompts(config, texts)
    prompts = PromptStream.of(str(RunLayout.of(config).prompts))
    places = store.index().places(keys_of_hashes(hashes, "the test"))
    first = embedding_parts.TableWriter(folder, prompts, store)
    (staging,) = folder.parent.glob("embeddings.*.tmp")
    attempts = [left_by(who, staging / "part-00000.parquet") for who in (gone_process(), this_process())]
    killed = left_by(gone_process(), folder, folder=True)
    second = embedding_parts.TableWriter(folder, prompts, store)
    assert not killed.exists()
    assert first.write(places)
    assert all(attempt.exists() for attempt in attempts)
    assert second.write(places)
    for writer in (first, second):
        writer.publish(embedding_parts.Counts(2, 2, 0, 2))
        assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "part-00000.parquet"]
    assert [path.name for path in folder.parent.glob("embeddings*")] == ["embeddings"]
