"""ulab LLMRouter: line separators inside strings, api keys, multiple choice, repeated questions."""

import json

import pytest

from pipeline.loaders.ulab import load
from policies.errors import InputError


def row(**changes):
    return {
        "task_name": "gsm8k",
        "query": "Janet has 4 apples.\u2028How many?",
        "ground_truth": "4",
        "metric": "GSM8K",
        "choices": None,
        "task_id": None,
        "model_name": "m1",
        "response": "four",
        "token_num": 453,
        "input_tokens": 449,
        "output_tokens": 4,
        "response_time": 1.75,
        "api_key_used": "sk-very-secret",
        "performance": 1.0,
        "embedding_id": 42,
        "user_id": None,
        "fig_id": None,
        **changes,
    }


@pytest.fixture
def routing_file(tmp_path):
    def write(*rows, name="default_routing_train_data.jsonl"):
        path = tmp_path / name
        path.write_bytes(b"".join(json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in rows))
        return path

    return write


def test_rows_end_at_line_feeds_only(routing_file, loader_options):
    path = routing_file(row(), row(model_name="m2", response="a\u2029b\x85c\x0cd"))
    assert len(path.read_text().splitlines()) > 2, "the fixture holds the trap"
    tables = load(path, loader_options("m1", "m2"))
    assert tables.prompts["prompt"].to_list() == ["Janet has 4 apples.\u2028How many?"]
    assert tables.outcomes["model"].to_list() == ["m1", "m2"]


def test_tokens_and_latency_are_kept_and_priced(routing_file, loader_options):
    (outcome,) = load(routing_file(row()), loader_options("m1")).outcomes.to_dicts()
    assert (outcome["prompt_tokens"], outcome["completion_tokens"], outcome["latency_s"]) == (449, 4, 1.75)
    assert outcome["cost_usd"] == pytest.approx((449 * 1.0 + 4 * 2.0) / 1e6)
    assert outcome["cost_estimated"] is True


def test_api_keys_reach_neither_tables_nor_errors(routing_file, loader_options):
    tables = load(routing_file(row()), loader_options("m1"))
    assert "secret" not in str(tables.prompts.to_dicts()) + str(tables.outcomes.to_dicts())
    path = routing_file(row())
    path.write_bytes(path.read_bytes()[:-3])  # cut inside the object
    with pytest.raises(InputError) as caught:
        load(path, loader_options("m1"))
    assert "row 1: not JSON" in str(caught.value)
    assert "secret" not in str(caught.value)
    del (incomplete := row())["model_name"]
    with pytest.raises(InputError, match="row 1: key 'model_name' is missing") as caught:
        load(routing_file(incomplete), loader_options("m1"))
    assert "api_key_used" not in str(caught.value)


def test_choices_are_part_of_the_prompt(routing_file, loader_options):
    choices = json.dumps({"text": ["Paris", "Rome"], "labels": ["A", "B"]})
    tables = load(routing_file(row(query="Capital of France?", choices=choices)), loader_options("m1"))
    assert tables.prompts["prompt"].to_list() == ["Capital of France?\nA. Paris\nB. Rome"]


@pytest.mark.parametrize("performance", [None, float("nan")])
def test_missing_performance_is_null(routing_file, loader_options, performance):
    (outcome,) = load(routing_file(row(performance=performance)), loader_options("m1")).outcomes.to_dicts()
    assert outcome["score"] is None


def test_repeated_question_keeps_its_first_sample(routing_file, loader_options):
    tables = load(routing_file(row(), row(performance=0.0)), loader_options("m1"))
    assert tables.outcomes["score"].to_list() == [1.0]
    assert "1 repeated rows dropped, the first of each pair kept" in tables.notes


def test_train_and_test_files_of_a_folder_are_one_table(routing_file, tmp_path, loader_options):
    routing_file(row())
    routing_file(row(model_name="m2"), name="default_routing_test_data.jsonl")
    (tmp_path / "default_query_train.jsonl").write_text("not read\n")
    tables = load(tmp_path, loader_options("m1", "m2"))
    assert (tables.prompts.height, tables.outcomes.height) == (1, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"performance": 1.5}, "score of model 'm1' .*: 1.5"),
        ({"performance": "great"}, "column 'performance': 'great'"),
        ({"choices": "{oops"}, "key 'choices'"),
        ({"query": " "}, "key 'query'"),
        ({"response_time": -2}, "latency_s of model 'm1'"),
    ],
)
def test_bad_row_is_named(routing_file, loader_options, changes, message):
    with pytest.raises(InputError, match=rf"default_routing_train_data\.jsonl: row 2,? .*{message}"):
        load(routing_file(row(model_name="m2"), row(**changes)), loader_options("m1", "m2"))
