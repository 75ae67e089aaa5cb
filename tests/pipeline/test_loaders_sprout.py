"""SPROUT: one struct column a model, prices apart."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.loaders.sprout import load
from policies.errors import InputError

GPT, LLAMA = "openai-gpt-4o", "wxai-llama-3-1-8b-instruct"


def cell(score, answer="An answer.", tokens=(100, 50)):
    return {
        "num_input_tokens": tokens[0],
        "num_output_tokens": tokens[1],
        "response": answer,
        "score": score,
        "judge_response": "fine",
    }


@pytest.fixture
def parquet_file(tmp_path):
    def write(name="train-00000-of-00001.parquet", **columns):
        table = {
            "key": ["k1", "k2", "k3"],
            "dataset": ["math", "mmlu-pro", None],
            "dataset_level": ["5", None, None],
            "dataset_idx": ["1", "2", "3"],
            "prompt": ["P1", "P2", "P3"],
            "golden_answer": ["a", "b", "c"],
            GPT: [cell(1.0), cell(None), cell(float("nan"))],
            LLAMA: [cell(0.25, tokens=(None, None)), None, cell(0.0)],
            **columns,
        }
        (tmp_path / "data").mkdir(exist_ok=True)
        path = tmp_path / "data" / name
        pq.write_table(pa.table(table), path)
        return path

    return write


def test_structs_become_outcomes(parquet_file, tmp_path, loader_options, outcome_of):
    parquet_file()
    tables = load(tmp_path, loader_options(GPT, LLAMA))
    assert tables.prompts.rows() == [
        ("sprout/k1", "P1", "math"),
        ("sprout/k2", "P2", "mmlu-pro"),
        ("sprout/k3", "P3", None),
    ]
    assert tables.outcomes.height == 5, "a null struct is a missing pair"
    assert outcome_of(tables, "sprout/k1", LLAMA)["score"] == 0.25
    assert outcome_of(tables, "sprout/k2", GPT)["score"] is None
    assert outcome_of(tables, "sprout/k3", GPT)["score"] is None


def test_costs_are_tokens_times_the_pools_prices(parquet_file, loader_options, outcome_of):
    tables = load(parquet_file(), loader_options(GPT, LLAMA))
    recorded = outcome_of(tables, "sprout/k1", GPT)
    assert recorded["cost_usd"] == pytest.approx((100 * 1.0 + 50 * 2.0) / 1e6)
    assert recorded["cost_estimated"] is True
    counted = outcome_of(tables, "sprout/k1", LLAMA)
    assert (counted["prompt_tokens"], counted["completion_tokens"]) == (1, 3), "characters / 4"


def test_keys_that_repeat_over_files_do_not_join_prompts(parquet_file, tmp_path, loader_options):
    parquet_file("train-00000-of-00002.parquet")
    parquet_file("train-00001-of-00002.parquet", prompt=["P4", "P5", "P6"])
    tables = load(tmp_path, loader_options(GPT, LLAMA))
    assert tables.prompts["prompt_id"].to_list() == [f"sprout/{i}" for i in range(1, 7)]


def test_more_rows_than_a_batch(tmp_path, loader_options):
    n = 2500
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"prompt": [f"P{i}" for i in range(n)], GPT: [cell(i % 2) for i in range(n)]}), path
    )
    tables = load(path, loader_options(GPT))
    assert tables.outcomes["score"].to_list() == [float(i % 2) for i in range(n)]


def test_bad_score_names_row_and_model(parquet_file, loader_options):
    path = parquet_file(**{GPT: [cell(1.0), cell(7.0), cell(0.0)]})
    with pytest.raises(InputError, match=rf"parquet: row 2, score of model '{GPT}' on prompt 'sprout/k2': 7"):
        load(path, loader_options(GPT, LLAMA))


def test_other_parquet_tables_are_refused(tmp_path, loader_options):
    pq.write_table(pa.table({"prompt": ["a"], "score": [1.0]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet: needs a column 'prompt' and struct columns"):
        load(tmp_path, loader_options(GPT))
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match=r"x\.parquet: not a Parquet file"):
        load(tmp_path, loader_options(GPT))
