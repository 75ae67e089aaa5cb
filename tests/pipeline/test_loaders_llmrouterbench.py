"""LLMRouterBench: demos, superseded files, missing pairs, null scores, disagreeing queries, archives, the csv."""

import json
import tarfile

import polars as pl
import pytest

from pipeline.loaders.llmrouterbench import load
from policies.errors import InputError


def record(number, query="What is 2+2?", **changes):
    return {
        "index": number,
        "origin_query": query,
        "prompt": f"Question: {query}\nAnswer:",
        "prompt_tokens": 15,
        "completion_tokens": 5,
        "cost": 0.0001,
        "score": 1.0,
        "prediction": "4",
        "ground_truth": "4",
        "raw_output": "The sum of 2+2 is 4.",
        **changes,
    }


@pytest.fixture
def result_file(tmp_path):
    def write(model, records, *, timestamp="20250801_101010", demo=False, dataset="aime", split="test"):
        folder = tmp_path / "results" / "bench" / dataset / split / model
        folder.mkdir(parents=True, exist_ok=True)
        body = {
            "performance": 0.5,
            "time_taken": 12.5,
            "prompt_tokens": 30,
            "completion_tokens": 10,
            "cost": 0.0002,
            "counts": len(records),
            "model_name": model,
            "dataset_name": dataset,
            "split": split,
            "demo": demo,
            "records": records,
        }
        path = folder / f"{dataset}-{split}-{model}-{timestamp}.json"
        path.write_text(json.dumps(body))
        return path

    return write


def test_pairs_join_on_dataset_split_and_index(result_file, tmp_path, loader_options, outcome_of):
    result_file("m1", [record(0), record(1, "And 3+3?", score=0.0)])
    result_file("m2", [record(1, "And 3+3?", score=None, cost=0.5)])
    tables = load(tmp_path, loader_options("m1", "m2"))
    assert tables.prompts.rows() == [
        ("aime/test/0", "What is 2+2?", "aime"),
        ("aime/test/1", "And 3+3?", "aime"),
    ]
    assert tables.outcomes.height == 3, "a missing pair is missing"
    missing = outcome_of(tables, "aime/test/1", "m2")
    assert missing["score"] is None
    assert (missing["cost_usd"], missing["cost_estimated"]) == (0.5, False)


def test_latest_file_wins_and_a_newer_demo_does_not(result_file, tmp_path, loader_options, outcome_of):
    result_file("m1", [record(0, score=0.0)], timestamp="20250801_101010")
    result_file("m1", [record(0, score=0.25)], timestamp="20250802_000000")
    result_file("m1", [record(0, score=1.0)], timestamp="20250901_000000", demo=True)
    tables = load(tmp_path, loader_options("m1"))
    assert outcome_of(tables, "aime/test/0", "m1")["score"] == 0.25
    assert {"1 demo files skipped", "1 superseded result files skipped, the latest timestamp kept"} <= set(
        tables.notes
    )


def test_cost_of_zero_is_unknown_and_priced_from_the_recorded_tokens(
    result_file, tmp_path, loader_options, outcome_of
):
    result_file("m1", [record(0, cost=0.0)])
    row = outcome_of(load(tmp_path, loader_options("m1")), "aime/test/0", "m1")
    assert row["cost_usd"] == pytest.approx((15 * 1.0 + 5 * 2.0) / 1e6)
    assert row["cost_estimated"] is True


def test_queries_must_agree_across_models(result_file, tmp_path, loader_options):
    result_file("m1", [record(0)])
    result_file("m2", [record(0, "Another question?")])
    with pytest.raises(
        InputError, match=r"m2-2025\S+: row 1: prompt 'aime/test/0' differs from the one of \S+m1"
    ):
        load(tmp_path, loader_options("m1", "m2"))


def test_same_index_of_another_split_is_another_prompt(result_file, tmp_path, loader_options):
    result_file("m1", [record(0)])
    result_file("m1", [record(0, "Another question?")], split="hard")
    assert load(tmp_path, loader_options("m1")).prompts.height == 2


def test_archive_reads_as_its_tree_does(result_file, tmp_path, loader_options):
    result_file("m1", [record(0), record(1, "And 3+3?")])
    result_file("m2", [record(0)])
    from_tree = load(tmp_path / "results", loader_options("m1", "m2"))
    archive = tmp_path / "bench-release.tar.gz"
    with tarfile.open(archive, "w:gz") as stream:
        stream.add(tmp_path / "results" / "bench", "bench-release")
    from_archive = load(archive, loader_options("m1", "m2"))
    order = ["prompt_id", "model"]
    assert from_archive.outcomes.sort(order).equals(from_tree.outcomes.sort(order))


def test_truncated_archive_names_the_file(tmp_path, loader_options):
    archive = tmp_path / "bench.tar.gz"
    with tarfile.open(archive, "w:gz"):
        pass
    archive.write_bytes(archive.read_bytes()[:20])
    with pytest.raises(InputError, match=r"bench\.tar\.gz: cannot be read as an archive"):
        load(archive, loader_options("m1"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": 2.0}, "row 1, score of model 'm1' on prompt 'aime/test/0': 2"),
        ({"score": "high"}, "row 1, column 'score': 'high'"),
        ({"completion_tokens": -1}, "row 1, completion_tokens of model 'm1'"),
        ({"origin_query": "", "prompt": ""}, "row 1: neither 'origin_query' nor 'prompt'"),
        ({"index": None}, "row 1, key 'index': None"),
    ],
)
def test_bad_record_names_file_and_row(result_file, tmp_path, loader_options, changes, message):
    result_file("m1", [record(0, **changes)])
    with pytest.raises(InputError, match=rf"aime-test-m1-\S+json: {message}"):
        load(tmp_path, loader_options("m1"))


def test_file_that_is_not_json_names_the_line(result_file, tmp_path, loader_options):
    path = result_file("m1", [record(0)])
    path.write_text('{"records": [\n  oops')
    with pytest.raises(InputError, match=r"json: not JSON: .* at line 2"):
        load(tmp_path, loader_options("m1"))


CSV = """row_id,dataset,prompt_id,index,model,score,cost,prompt_tokens,completion_tokens
0,aime,p1,0,m1,1.0,0.004,10,20
1,aime,p1,0,m2,0.0,0,10,20
2,aime,p2,1,m1,,0.0,30,40
"""


def test_csv_takes_the_texts_from_a_prompts_table(tmp_path, loader_options, outcome_of):
    (tmp_path / "derived.csv").write_text(CSV)
    prompts = tmp_path / "prompts.parquet"
    pl.DataFrame({"prompt_id": ["p1", "p2"], "text": ["one", "two"]}).write_parquet(prompts)
    options = loader_options("m1", "m2", prompts=str(prompts), prompt_columns={"prompt": "text"})
    tables = load(tmp_path / "derived.csv", options)
    assert tables.prompts.rows() == [("p1", "one", "aime"), ("p2", "two", "aime")]
    assert outcome_of(tables, "p1", "m1")["cost_estimated"] is False
    unknown = outcome_of(tables, "p1", "m2")
    assert unknown["cost_usd"] == pytest.approx((10 * 1.0 + 20 * 2.0) / 1e6), "0 means unknown, never free"
    assert unknown["cost_estimated"] is True
    assert outcome_of(tables, "p2", "m1")["score"] is None


def test_csv_without_prompts_says_what_to_give(tmp_path, loader_options):
    (tmp_path / "derived.csv").write_text(CSV)
    with pytest.raises(InputError, match=r"derived\.csv: this csv has no prompt texts; give data\.prompts"):
        load(tmp_path / "derived.csv", loader_options("m1", "m2"))


def test_csv_prompt_that_the_table_lacks(tmp_path, loader_options):
    (tmp_path / "derived.csv").write_text(CSV)
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt_id,prompt\np1,one\n")
    with pytest.raises(InputError, match=r"derived\.csv: row 3, column 'prompt_id': 'p2' is not in"):
        load(tmp_path / "derived.csv", loader_options("m1", "m2", prompts=str(prompts)))
