"""AlpacaEval: preferences to scores, one judge, one reference, and the judge's bill is not the model's."""

import json

import pytest

from pipeline.loaders.alpaca_eval import load
from policies.errors import InputError

WEIGHTED = "weighted_alpaca_eval_gpt4_turbo"


def annotation(preference, instruction="Name some actors.", model="m1", **changes):
    return {
        "dataset": "helpful_base",
        "instruction": instruction,
        "output_1": "Reference answer.",
        "generator_1": "gpt4_1106_preview",
        "output_2": "x" * 400,
        "generator_2": model,
        "annotator": WEIGHTED,
        "preference": preference,
        "time_per_example": 0.5,
        "price_per_example": 0.01307,
        **changes,
    }


@pytest.fixture
def annotated(tmp_path):
    def write(*entries, model="m1", judge=WEIGHTED):
        path = tmp_path / "results" / model / judge / "annotations.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entries))
        (path.parent / "annotations_seed0_configs.json").write_text("[]")
        return tmp_path / "results"

    return write


@pytest.mark.parametrize(
    ("preference", "score"), [(1.0, 0.0), (2.0, 1.0), (1.7328, 0.7328), (1.5, 0.5), (0, 0.5), (None, None)]
)
def test_preference_to_score(annotated, loader_options, preference, score):
    (outcome,) = load(annotated(annotation(preference)), loader_options("m1")).outcomes.to_dicts()
    assert outcome["score"] == (None if score is None else pytest.approx(score))


@pytest.mark.parametrize("preference", [2.5, 0.5, -1])
def test_preference_out_of_range_names_file_and_row(annotated, loader_options, preference):
    folder = annotated(annotation(1.0), annotation(preference, "Another"))
    with pytest.raises(InputError, match=rf"annotations\.json: row 2, key 'preference': {preference:g}"):
        load(folder, loader_options("m1"))


def test_cost_is_the_models_not_the_judges(annotated, loader_options):
    (outcome,) = load(annotated(annotation(2.0)), loader_options("m1")).outcomes.to_dicts()
    prompt_tokens = -(-len("Name some actors.") // 4)
    assert outcome["cost_usd"] == pytest.approx((prompt_tokens * 1.0 + 100 * 2.0) / 1e6)
    assert outcome["cost_estimated"] is True


def test_models_share_prompts_and_the_reference_has_no_score(annotated, loader_options):
    annotated(annotation(1.2), annotation(1.4, "Another"))
    folder = annotated(annotation(1.9, model="m2"), model="m2")
    tables = load(folder, loader_options("m1", "m2"))
    assert tables.prompts["task"].to_list() == ["helpful_base", "helpful_base"]
    assert sorted(tables.outcomes["model"]) == ["m1", "m1", "m2"]


def test_default_judge_is_taken_of_several(annotated, loader_options):
    annotated(annotation(1.2))
    folder = annotated(annotation(2.0, annotator="alpaca_eval_gpt4"), judge="alpaca_eval_gpt4")
    assert load(folder, loader_options("m1")).outcomes["score"].to_list() == [pytest.approx(0.2)]


def test_several_judges_without_the_default_do_not_mix(annotated, loader_options):
    annotated(annotation(1.2, annotator="a"), judge="a")
    folder = annotated(annotation(2.0, annotator="b"), judge="b")
    with pytest.raises(InputError, match=r"judgements of several annotators \(a, b\)"):
        load(folder, loader_options("m1"))


def test_two_references_do_not_mix(annotated, loader_options):
    annotated(annotation(1.2))
    folder = annotated(annotation(1.3, model="m2", generator_1="text_davinci_003"), model="m2")
    with pytest.raises(InputError, match=r"row 1, key 'generator_1': reference 'text_davinci_003' differs"):
        load(folder, loader_options("m1", "m2"))
