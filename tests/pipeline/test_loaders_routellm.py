"""RouteLLM: flags per model, quoted cells over several lines, contaminated prompts, no costs at all."""

import json
import math

import pytest

from pipeline.loaders.routellm import load
from policies.errors import InputError

WEAK, STRONG = "mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"
MMLU = f"""prompt,{WEAK},{STRONG}
"A ""dished face"" profile is, often:
A. one
B. two
Answer:",True,False
"Which muscles?
Answer:",False,True
Seen in training?,True,True
"""
GSM8K = f"""prompt,{WEAK},{STRONG},{WEAK}_response,{STRONG}_response
"Janet’s ducks lay 16 eggs, how many?",True,True,"Janet has 16.
She eats 3.
#### 13",13
A robe takes 2 bolts.,False,,"2 bolts",
"""


@pytest.fixture
def checkout(tmp_path):
    responses = tmp_path / "evals" / "mmlu" / "responses"
    responses.mkdir(parents=True)
    (responses / "mmlu_anatomy.csv").write_text(MMLU)
    lines = [{"train_prompt": "x", "eval_prompt": "Seen in training?", "train_idx": 1, "eval_idx": 2}]
    (responses.parent / "contaminated_prompts.jsonl").write_text("".join(json.dumps(b) + "\n" for b in lines))
    gsm8k = tmp_path / "evals" / "gsm8k"
    gsm8k.mkdir()
    (gsm8k / "gsm8k_responses.csv").write_text(GSM8K)
    return tmp_path / "evals"


def test_flags_are_scores_and_cells_keep_their_lines(checkout, loader_options, outcome_of):
    tables = load(checkout, loader_options(WEAK, STRONG))
    texts = dict(tables.prompts.select("prompt_id", "prompt").iter_rows())
    assert texts["mmlu_anatomy/1"] == 'A "dished face" profile is, often:\nA. one\nB. two\nAnswer:'
    assert outcome_of(tables, "mmlu_anatomy/1", WEAK)["score"] == 1.0
    assert outcome_of(tables, "mmlu_anatomy/1", STRONG)["score"] == 0.0
    assert set(tables.prompts["task"]) == {"mmlu_anatomy", "gsm8k"}
    assert set(tables.outcomes["model"]) == {WEAK, STRONG}, "a response column is no model"


@pytest.mark.parametrize("below", ["", "mmlu", "mmlu/responses", "mmlu/responses/mmlu_anatomy.csv"])
def test_contaminated_prompts_are_dropped_from_wherever_one_starts(checkout, loader_options, below):
    tables = load(checkout / below, loader_options(WEAK, STRONG))
    assert "Seen in training?" not in tables.prompts["prompt"].to_list()
    assert "mmlu_anatomy/3" not in tables.outcomes["prompt_id"].to_list()
    assert any(note.startswith("1 contaminated prompts dropped") for note in tables.notes)


def test_a_missing_list_is_told(checkout, loader_options):
    tables = load(checkout / "gsm8k", loader_options(WEAK, STRONG))
    assert any("nothing was decontaminated" in note for note in tables.notes)


def test_costs_come_from_the_pool_and_are_marked(checkout, loader_options, outcome_of):
    tables = load(checkout, loader_options(WEAK, STRONG))
    row = outcome_of(tables, "gsm8k/1", WEAK)
    prompt_tokens = math.ceil(len("Janet’s ducks lay 16 eggs, how many?") / 4)
    answer_tokens = math.ceil(len("Janet has 16.\nShe eats 3.\n#### 13") / 4)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (prompt_tokens, answer_tokens)
    assert row["cost_usd"] == pytest.approx((prompt_tokens + 2 * answer_tokens) / 1e6)
    assert row["cost_estimated"] is True
    assert outcome_of(tables, "mmlu_anatomy/2", WEAK)["completion_tokens"] == 1


def test_an_empty_flag_is_missing_and_so_is_its_cost(checkout, loader_options, outcome_of):
    row = outcome_of(load(checkout, loader_options(WEAK, STRONG)), "gsm8k/2", STRONG)
    assert (row["score"], row["cost_usd"], row["cost_estimated"]) == (None, None, None)


@pytest.mark.parametrize(("cell", "message"), [("0.5", "0.5; allowed: True, False"), ("yes", "'yes'")])
def test_other_flags_name_file_row_and_column(tmp_path, loader_options, cell, message):
    (tmp_path / "mmlu_law.csv").write_text(f"prompt,{WEAK}\nfirst,True\nsecond,{cell}\n")
    with pytest.raises(InputError, match=rf"mmlu_law\.csv: row 2, column '{WEAK}': {message}"):
        load(tmp_path, loader_options(WEAK))


def test_folder_without_its_files(tmp_path, loader_options):
    with pytest.raises(InputError, match=r"holds no RouteLLM csv file; looked for mmlu_\*\.csv"):
        load(tmp_path, loader_options(WEAK))
