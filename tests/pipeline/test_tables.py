"""Every way in which a table can be wrong, tried one by one."""

import math
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.tables import read_table, write_parts, write_table
from policies.errors import InputError
from policies.leftovers import this_process
from policies.schemas import FEEDBACK, OUTCOMES, PROMPTS
from tests.policies.leftovers_case import gone_process, left_by

GOOD = {
    "prompt_id": ["a", "a", "b"],
    "model": ["m1", "m2", "m1"],
    "score": [1.0, None, 0.25],
    "cost_usd": [0.1, 0.2, 0.0],
}


@pytest.fixture
def outcomes_file(tmp_path):
    def write(name="outcomes.parquet", **changes):
        frame = pl.DataFrame({**GOOD, **changes}, strict=False)
        path = tmp_path / name
        {"parquet": frame.write_parquet, "csv": frame.write_csv, "jsonl": frame.write_ndjson}[
            name.rsplit(".", 1)[1]
        ](path)
        return str(path)

    return write


@pytest.mark.parametrize("name", ["outcomes.parquet", "outcomes.csv", "outcomes.jsonl"])
def test_every_format_reads_the_same(outcomes_file, name):
    table = read_table(OUTCOMES, outcomes_file(name))
    assert table.schema.equals(OUTCOMES.schema)
    assert table["score"].to_pylist() == [1.0, None, 0.25]
    assert table["latency_s"].null_count == 3


@pytest.mark.parametrize(
    ("changes", "row", "column", "value"),
    [
        ({"score": [1.0, 1.2, 0.0]}, 2, "score", "1.2"),
        ({"score": [1.0, 0.5, -0.1]}, 3, "score", "-0.1"),
        ({"score": [math.nan, 0.5, 0.1]}, 1, "score", "nan"),
        ({"cost_usd": [0.1, -0.2, 0.0]}, 2, "cost_usd", "-0.2"),
        ({"cost_usd": [0.1, 0.2, math.inf]}, 3, "cost_usd", "inf"),
        ({"prompt_id": ["a", None, "b"]}, 2, "prompt_id", "null"),
        ({"model": ["m1", "m2", "m9"]}, 3, "model", "m9"),
    ],
)
def test_bad_value_names_file_row_column_and_value(outcomes_file, changes, row, column, value):
    path = outcomes_file(**changes)
    with pytest.raises(InputError) as caught:
        read_table(OUTCOMES, path, models=["m1", "m2"])
    message = str(caught.value)
    assert message.startswith(f"{path}: row {row}, column '{column}'")
    assert value in message


def test_wrong_type_names_the_value_and_the_type_allowed(outcomes_file):
    path = outcomes_file(score=["good", "bad", "good"])
    with pytest.raises(InputError, match=r"row 1, column 'score': 'good' has type .*allowed: double"):
        read_table(OUTCOMES, path)


def test_missing_column_is_named_with_what_is_there(outcomes_file, tmp_path):
    frame = pl.DataFrame({k: v for k, v in GOOD.items() if k != "model"})
    frame.write_parquet(tmp_path / "x.parquet")
    with pytest.raises(
        InputError, match="column 'model' of the outcomes table is missing; it has: prompt_id"
    ):
        read_table(OUTCOMES, str(tmp_path / "x.parquet"))


def test_duplicate_prompt_and_model(outcomes_file):
    path = outcomes_file(model=["m1", "m1", "m1"])
    with pytest.raises(InputError, match=r"row 2: duplicate key \(prompt_id='a', model='m1'\)"):
        read_table(OUTCOMES, path)


def test_duplicate_across_files_names_the_second_file(tmp_path):
    for name in ("1.parquet", "2.parquet"):
        pl.DataFrame({"prompt_id": ["p" + name[0], "same"], "prompt": ["x", "y"]}).write_parquet(
            tmp_path / name
        )
    with pytest.raises(InputError, match=r"2\.parquet: row 2: duplicate key \(prompt_id='same'\)"):
        read_table(PROMPTS, str(tmp_path))


def test_empty_table(tmp_path):
    pl.DataFrame(schema={"prompt_id": pl.String, "prompt": pl.String}).write_parquet(tmp_path / "e.parquet")
    with pytest.raises(InputError, match="the prompts table is empty"):
        read_table(PROMPTS, str(tmp_path / "e.parquet"))


def test_truncated_parquet(outcomes_file):
    path = Path(outcomes_file())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        read_table(OUTCOMES, str(path))


def test_absent_file():
    with pytest.raises(InputError, match="no such file"):
        read_table(PROMPTS, "/no/such/table.parquet")


def test_unknown_suffix(tmp_path):
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(InputError, match=r"allowed: \.parquet, \.csv, \.jsonl"):
        read_table(PROMPTS, str(tmp_path / "a.xlsx"))


def test_column_mapping_and_alias(tmp_path):
    pl.DataFrame({"id": ["a"], "llm": ["m1"], "score": [1.0], "cost": [0.5]}).write_csv(tmp_path / "o.csv")
    table = read_table(OUTCOMES, str(tmp_path / "o.csv"), columns={"prompt_id": "id", "model": "llm"})
    assert table["cost_usd"].to_pylist() == [0.5]


def test_mapping_to_an_absent_column(outcomes_file):
    with pytest.raises(InputError, match=r"column 'price' \(mapped to 'cost_usd'\) is missing"):
        read_table(OUTCOMES, outcomes_file(), columns={"cost_usd": "price"})


def test_dictionary_and_narrow_types_are_widened(tmp_path):
    table = pa.table(
        {
            "prompt_id": ["a"],
            "model": pa.array(["m1"]).dictionary_encode(),
            "score": pa.array([1.0], pa.float32()),
            "cost": pa.array([0.5], pa.float32()),
            "prompt_tokens": pa.array([3], pa.int32()),
        }
    )
    pq.write_table(table, tmp_path / "o.parquet")
    assert read_table(OUTCOMES, str(tmp_path / "o.parquet")).schema.equals(OUTCOMES.schema)


def test_unicode_line_separator_stays_inside_a_jsonl_string(tmp_path):
    text = "first\u2028second"
    (tmp_path / "p.jsonl").write_text(f'{{"prompt_id": "a", "prompt": "{text}"}}\n', encoding="utf-8")
    assert read_table(PROMPTS, str(tmp_path / "p.jsonl"))["prompt"].to_pylist() == [text]


def test_log_refuses_propensity_zero(tmp_path):
    pl.DataFrame(
        {
            "event_id": ["e"],
            "timestamp": ["2026-01-01T00:00:00Z"],
            "prompt_id": ["a"],
            "w_quality": [1.0],
            "w_cost": [0.0],
            "eligible": [["m1"]],
            "model": ["m1"],
            "propensity": [0.0],
            "score": [1.0],
            "cost_usd": [0.1],
            "policy_version": ["v"],
        }
    ).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(InputError, match=r"row 1, column 'propensity': 0\.0; allowed: \(0, 1\]"):
        read_table(FEEDBACK, str(tmp_path / "log.parquet"))


def test_write_into_unwritable_place_leaves_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(OSError, match="file"):
        write_table(pa.table({"x": [1]}), str(blocked / "t.parquet"))


def test_a_write_leaves_another_s_unfinished_file_and_removes_a_killed_one_s(tmp_path):
    path = tmp_path / "t.parquet"
    live, dead = left_by(this_process(), path), left_by(gone_process(), path)
    write_table(pa.table({"x": [1]}), str(path))
    assert live.exists()
    assert not dead.exists()


def test_failed_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("disk full")

    monkeypatch.setattr("pipeline.tables.pq.write_table", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_table(pa.table({"x": [1]}), str(tmp_path / "t.parquet"))
    assert list(tmp_path.iterdir()) == []


def test_parts_are_row_groups_of_one_file(tmp_path):
    parts = [pa.table({"x": [1, 2]}), pa.table({"x": [3]})]
    write_parts(iter(parts), parts[0].schema, f"file://{tmp_path}/t.parquet")
    assert pq.read_table(tmp_path / "t.parquet").equals(pa.concat_tables(parts).combine_chunks())
    assert pq.read_metadata(tmp_path / "t.parquet").num_row_groups == 2


def test_a_part_that_fails_leaves_the_file_as_it_was(tmp_path):
    def parts():
        yield pa.table({"x": [2]})
        raise RuntimeError("lost")

    write_table(pa.table({"x": [1]}), str(tmp_path / "t.parquet"))
    with pytest.raises(RuntimeError, match="lost"):
        write_parts(parts(), pa.schema({"x": pa.int64()}), str(tmp_path / "t.parquet"))
    assert pq.read_table(tmp_path / "t.parquet")["x"].to_pylist() == [1]
    assert len(list(tmp_path.iterdir())) == 1
