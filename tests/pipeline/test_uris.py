"""Tables and the embedding store by URI, here in fsspec's memory; s3:// and gs:// take the same path."""

from typing import ClassVar

import fsspec
import numpy as np
import polars as pl
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import ingest
from pipeline.compose import load_config
from pipeline.embedding_store import EmbeddingStore
from pipeline.layout import RunLayout
from pipeline.tables import read_table, write_table
from pipeline.text_digests import keys_of_texts
from policies.bundle import EncoderIdentity
from policies.encoder import content_hash
from policies.schemas import PROMPTS


@pytest.fixture
def bucket():
    """A folder in memory, empty before and after."""
    memory = fsspec.filesystem("memory")
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


def test_a_run_takes_its_tables_from_uris(bucket, tmp_path):
    ids = [f"p{i}" for i in range(40)]
    prompts = pl.DataFrame({"prompt_id": ids, "prompt": [f"question number {i}" for i in range(40)]})
    outcomes = pl.DataFrame({"prompt_id": ids, "model": "m", "score": 0.5, "cost_usd": 0.001})
    write_table(prompts.to_arrow(), f"{bucket}/prompts.parquet")
    write_table(outcomes.to_arrow(), f"{bucket}/outcomes.parquet")
    (tmp_path / "pool.yaml").write_text(
        "models:\n  m: {input_price_per_mtok_usd: 1.0, output_price_per_mtok_usd: 2.0}\n"
    )
    config = load_config(
        [
            "data=tables",
            f"data.prompts={bucket}/prompts.parquet",
            f"data.outcomes={bucket}/outcomes.parquet",
            f"pool={tmp_path}/pool.yaml",
            f"run.dir={tmp_path}/run",
        ]
    )
    ingest.run(config)
    kept = read_table(PROMPTS, str(RunLayout.of(config).prompts))
    assert sorted(kept["prompt_id"].to_pylist()) == sorted(ids)


def test_the_embedding_store_lies_behind_a_uri(bucket):
    texts = [f"text {i}" for i in range(10)]
    vectors = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    store = EmbeddingStore(f"{bucket}/store", EncoderIdentity("e", "0" * 64, "torch-fp32", 4, 256), "float32")
    for part in (slice(0, 6), slice(6, 10)):
        store.write_shard([content_hash(text) for text in texts[part]], vectors[part])
    wanted = [7, 0, 3]
    index = store.index()
    assert index.lacks(keys_of_texts(["another text", texts[0]])).tolist() == [True, False]
    places = index.places(keys_of_texts([texts[i] for i in wanted]))
    np.testing.assert_array_equal(store.gather(places), vectors[wanted])


def test_a_table_that_cannot_be_written_leaves_the_one_that_is_there(bucket):
    uri, table = f"{bucket}/prompts.parquet", pl.DataFrame({"prompt_id": ["a"], "prompt": ["b"]}).to_arrow()
    write_table(table, uri)
    with pytest.raises(ValueError, match="version"):
        write_table(table, uri, parquet_options={"version": "9"})
    assert read_table(PROMPTS, uri).num_rows == 1


class RememberingFileSystem(MemoryFileSystem):
    """Memory whose listings are remembered until told otherwise, as those of s3fs and gcsfs are."""

    protocol = "remembering"
    listings: ClassVar[dict] = {}

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("remembering://"))

    def ls(self, path, detail=True, **kwargs):
        return self.listings.setdefault((path, detail), super().ls(path, detail=detail, **kwargs))

    def invalidate_cache(self, path=None):
        self.listings.clear()


def test_shards_that_others_write_are_seen_though_listings_are_remembered(bucket):
    fsspec.register_implementation("remembering", RememberingFileSystem, clobber=True)
    who = EncoderIdentity("e", "0" * 64, "torch-fp32", 4, 256)
    here, elsewhere = (
        EmbeddingStore(f"{protocol}://bucket/store", who, "float32") for protocol in ("remembering", "memory")
    )
    for number in range(2):
        elsewhere.write_shard([content_hash(f"text {number}")], np.ones((1, 4), np.float32))
        assert len(here.index()) == number + 1
