"""MMLU-Pro outputs: zips per model, revised questions, answers without a letter."""

import json
import zipfile

import pytest

from pipeline.loaders.mmlu_pro import extract_letter, load, model_name
from policies.errors import InputError


def entry(question_id=70, **changes):
    return {
        "question_id": question_id,
        "question": "Polio can be eradicated by which of the following? ",
        "options": ["Herbal remedies", " Use of antibiotics", "N/A"],
        "answer": "B",
        "answer_index": 1,
        "cot_content": "",
        "category": "health",
        "src": "ori_mmlu-virology",
        "pred": "B",
        "model_outputs": "Let's think. The answer is (B).",
        **changes,
    }


@pytest.fixture
def zipped(tmp_path):
    def write(model, body, member=None, extra=()):
        path = tmp_path / "eval_results" / f"model_outputs_{model}_5shots.zip"
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member or f"model_outputs_{model}_5shots.json", json.dumps(body))
            for name, content in extra:
                archive.writestr(name, content)
        return path

    return write


def test_zip_of_a_model(zipped, tmp_path, loader_options):
    zipped("m1", [entry(70), entry(71, pred="A", category="law")])
    tables = load(tmp_path, loader_options("m1"))
    prompt = "Polio can be eradicated by which of the following?\nA. Herbal remedies\nB. Use of antibiotics"
    assert tables.prompts.rows() == [("mmlu_pro/70", prompt, "health"), ("mmlu_pro/71", prompt, "law")]
    assert tables.outcomes["score"].to_list() == [1.0, 0.0]
    first = tables.outcomes.row(0, named=True)
    assert (first["prompt_tokens"], first["completion_tokens"]) == (-(-len(prompt) // 4), 8)
    assert first["cost_estimated"] is True


def test_categories_summaries_and_resource_forks(zipped, tmp_path, loader_options):
    zipped(
        "m1",
        {"health": [entry(70)], "law": [entry(71, category="law")]},
        extra=[("a_summary.json", '{"acc": 0.5}'), ("__MACOSX/._x.json", "\x00"), ("log.txt", "x")],
    )
    assert load(tmp_path, loader_options("m1")).outcomes.height == 2


@pytest.mark.parametrize(
    ("changes", "score"),
    [
        ({"pred": None, "model_outputs": "I do not know."}, 0.0),
        ({"pred": None, "model_outputs": ""}, None),
        ({"pred": "B", "model_outputs": None, "response": "B"}, 1.0),
    ],
)
def test_no_letter_is_wrong_and_no_answer_is_missing(zipped, tmp_path, loader_options, changes, score):
    zipped("m1", [entry(70), entry(71, **changes)])
    assert load(tmp_path, loader_options("m1")).outcomes["score"].to_list() == [1.0, score]


def test_letter_is_extracted_where_none_was_stored(zipped, tmp_path, loader_options):
    stored = entry(70)
    del stored["pred"]
    zipped("m1", [stored])
    assert load(tmp_path, loader_options("m1")).outcomes["score"].to_list() == [1.0]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("so the answer is (C). Or D.", "C"),
        ("Answer: E", "E"),
        ("It must be F, surely", "F"),
        ("no idea", None),
        ("", None),
    ],
)
def test_extraction_chain(answer, letter):
    assert extract_letter(answer) == letter


def test_answers_to_a_revised_question_are_left_out(zipped, tmp_path, loader_options):
    zipped("m1", [entry(70)])
    zipped("m2", [entry(70)])
    zipped("old", [entry(70, question="Polio?")])
    tables = load(tmp_path, loader_options("m1", "m2", "old"))
    assert tables.prompts.height == 1
    assert set(tables.outcomes["model"]) == {"m1", "m2"}
    assert "1 answers to another revision of their question left out" in tables.notes


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("model_outputs_Qwen1.5-72B-Chat_5shots.zip", "Qwen1.5-72B-Chat"),
        ("model_outputs_claude-3-5-sonnet_0shots.json.zip", "claude-3-5-sonnet"),
        ("model_outputs_gpt-4o.json", "gpt-4o"),
    ],
)
def test_model_name_is_that_of_the_file(tmp_path, name, model):
    assert model_name(tmp_path / name) == model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": "A,B"}, "key 'options': str"),
        ({"question": None}, "key 'question': None"),
        ({"question_id": None}, "key 'question_id': None"),
    ],
)
def test_bad_entry_names_zip_member_and_row(zipped, tmp_path, loader_options, changes, message):
    zipped("m1", [entry(70), {**entry(71), **changes}], member="outputs/health_result.json")
    with pytest.raises(InputError, match=rf"5shots\.zip:outputs/health_result\.json: row 2, {message}"):
        load(tmp_path, loader_options("m1"))


def test_file_that_is_no_zip(tmp_path, loader_options):
    (tmp_path / "model_outputs_m1_5shots.zip").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(InputError, match=r"model_outputs_m1_5shots\.zip: not a readable zip file"):
        load(tmp_path, loader_options("m1"))
