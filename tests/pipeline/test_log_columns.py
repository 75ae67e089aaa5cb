"""Streaming a log gives what reading it at once gives, from mapped files, in log order."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.compose import load_config
from pipeline.join import load_feedback, load_pool
from pipeline.layout import RunLayout
from pipeline.log_columns import stream_feedback
from pipeline.prompt_index import PromptIndex
from policies.errors import InputError
from policies.rllib.columns import LOGGED_COLUMNS, open_columns, training_columns, write_columns
from policies.schemas import ENCODER_BACKEND_KEY, FEEDBACK
from tests.pipeline.evaluation_case import outcomes
from tests.pipeline.log_case import SavedKindPolicy, log_run, registered

PARTS = {"train": ("train",), "validation": ("validation",)}


def late_and_repeated(log):
    """Some prompts twice, some scores not there yet."""
    again = log.head(60).with_columns(pl.format("again-{}", "event_id").alias("event_id"))
    late = pl.int_range(pl.len()) % 7 == 0
    return pl.concat([log, again]).with_columns(score=pl.when(late).then(None).otherwise("score"))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        registered(patch)
        return log_run(tmp_path_factory.mktemp("log"), SavedKindPolicy(), n=500, change=late_and_repeated)


@pytest.fixture
def split_up(config, tmp_path):
    """Return the run's tables rewritten in small row groups, as large tables have them."""
    layout = RunLayout(tmp_path / "run")
    whole = RunLayout.of(config)
    layout.prompts.parent.mkdir(parents=True)
    layout.embeddings.mkdir()
    for source, target in (
        (whole.prompts, layout.prompts),
        (whole.splits, layout.splits),
        (whole.feedback, layout.feedback),
        (whole.embeddings / "part-00000.parquet", layout.embeddings / "part-00000.parquet"),
    ):
        pq.write_table(pq.read_table(source), target, row_group_size=90)
    return layout


def streamed(layout, config, folder):
    folder.mkdir()
    return stream_feedback(layout, config, load_pool(config), PARTS, folder)


def assert_same(log, other):
    for name in (
        "event_ids", "prompt_ids", "tasks", "embeddings", "prompt_tokens", "preferences", "eligible", "actions",
        "propensities", "scores", "costs_usd", "completion_tokens",
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(log, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("groups", ["one", "many"])
def test_streamed_log_is_the_log_that_is_read_at_once(groups, config, split_up, tmp_path, ray_session):
    layout = split_up if groups == "many" else RunLayout.of(config)
    data = streamed(layout, config, tmp_path / "scratch")
    for name, splits in PARTS.items():
        expected = load_feedback(layout, config, splits)
        assert_same(data[name], expected.scored())
        assert data[name].n_without_outcome == np.isnan(expected.scores).sum() > 0


def test_vectors_are_a_mapped_file_that_the_columns_share(config, tmp_path):
    data = streamed(RunLayout.of(config), config, tmp_path / "scratch")["train"]
    assert isinstance(data.embeddings, np.memmap)
    write_columns(tmp_path / "arrays", training_columns(data))
    file = tmp_path / "arrays" / "embeddings.npy"
    assert file.samefile(data.embeddings.filename)
    assert set(open_columns(tmp_path / "arrays")) == set(LOGGED_COLUMNS)


def test_part_of_a_mapped_file_is_not_taken_for_the_file(config, tmp_path):
    data = streamed(RunLayout.of(config), config, tmp_path / "scratch")["train"]
    write_columns(tmp_path / "arrays", training_columns(data.rows(np.arange(3, len(data)))))
    stored = np.load(tmp_path / "arrays" / "embeddings.npy")
    np.testing.assert_array_equal(stored, data.embeddings[3:])


def rewrite(layout, change):
    frame = pl.read_parquet(layout.feedback)
    table = change(frame).to_arrow().select(FEEDBACK.schema.names).cast(FEEDBACK.schema)
    pq.write_table(table, layout.feedback, row_group_size=90)


def test_event_twice_in_different_row_groups_is_refused(config, split_up, tmp_path, ray_session):
    rewrite(split_up, lambda log: pl.concat([log, log.head(1)]))
    with pytest.raises(InputError, match=r"row 561: duplicate key \(event_id="):
        streamed(split_up, config, tmp_path / "scratch")


def test_called_model_that_was_not_eligible_is_refused(config, split_up, tmp_path, ray_session):
    rewrite(split_up, lambda log: log.with_columns(eligible=pl.lit(["nobody"])))
    with pytest.raises(InputError, match="is not in its eligible list"):
        streamed(split_up, config, tmp_path / "scratch")


def test_bad_value_in_a_worker_is_an_input_error(config, split_up, tmp_path, ray_session):
    rewrite(split_up, lambda log: log.with_columns(propensity=pl.lit(0.0)))
    with pytest.raises(InputError, match=r"rows \d+ to \d+: row 1, column 'propensity': 0.0"):
        streamed(split_up, config, tmp_path / "scratch")


def test_prompt_without_vector_is_named_with_the_stage_to_run(config, split_up, tmp_path, ray_session):
    path = split_up.embeddings / "part-00000.parquet"
    table = pq.read_table(path)
    prompt_ids = load_feedback(split_up, config, ("train",)).scored().prompt_ids
    kept = pa.array(np.array(table["prompt_id"].to_pylist()) != prompt_ids[0])
    pq.write_table(table.filter(kept), path, row_group_size=90)
    with pytest.raises(InputError, match=rf"{prompt_ids[0]}' has no embedding \(1 in all\); run .* embed"):
        streamed(split_up, config, tmp_path / "scratch")


def test_vectors_of_another_encoder_are_refused(config, split_up, tmp_path):
    part = pq.read_table(split_up.embeddings / "part-00000.parquet")
    other = {**part.schema.metadata, ENCODER_BACKEND_KEY: b"torch-fp32-of-old"}
    pq.write_table(part.replace_schema_metadata(other), split_up.embeddings / "part-00001.parquet")
    with pytest.raises(InputError, match=r"part-00001\.parquet: .*allowed: one encoder a table"):
        streamed(split_up, config, tmp_path / "scratch")


def test_index_finds_ids_and_says_which_it_lacks(config, tmp_path):
    index = PromptIndex.build(RunLayout.of(config), {"train": 0})
    index.write(tmp_path / "index.arrow")
    again = PromptIndex.open(str(tmp_path / "index.arrow"))
    ids = outcomes(500, 5).prompt_ids[::50].tolist()
    rows = again.find(pa.chunked_array([["strange", *ids]]))
    assert rows[0] == -1
    assert again.ids.take(pa.array(rows[1:])).to_pylist() == ids


def test_run_without_any_wanted_event_is_left_empty(config, tmp_path):
    (tmp_path / "scratch").mkdir()
    config = load_config([f"run={config.run.path}"])
    none = stream_feedback(
        RunLayout.of(config), config, load_pool(config), {"ood": ("ood",)}, tmp_path / "scratch"
    )
    assert len(none["ood"]) == 0
