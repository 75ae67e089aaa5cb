"""RouterArena: nested results, negative scores, failed calls, and that nobody trains on it."""

import json

import pytest

from pipeline.loaders.registry import LOADERS
from pipeline.loaders.routerarena import load
from policies.errors import InputError


def row(index="AIME_112", model="claude-3-haiku", score=1.0, cost=0.00024, **changes):
    return {
        "global_index": index,
        "question": f"Please solve {index}.",
        "llm_selected": model,
        "generated_answer": "\\boxed{982}",
        "token_usage": {"input_tokens": 349, "output_tokens": 120, "total_tokens": 469},
        "success": True,
        "provider": "anthropic",
        "error": None,
        "evaluation_result": {
            "extracted_answer": "982",
            "ground_truth": "610",
            "score": score,
            "metric": "math_metric",
            "inference_cost": cost,
        },
        **changes,
    }


@pytest.fixture
def cached(tmp_path):
    def write(*rows, model="claude-3-haiku"):
        folder = tmp_path / "cached_results"
        folder.mkdir(exist_ok=True)
        (folder / f"{model}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return tmp_path

    return write


def test_nested_fields(cached, loader_options):
    tables = load(cached(row(), row("ArcMMLU_659", score=0.0)), loader_options("claude-3-haiku"))
    assert tables.prompts.rows() == [
        ("AIME_112", "Please solve AIME_112.", "AIME"),
        ("ArcMMLU_659", "Please solve ArcMMLU_659.", "ArcMMLU"),
    ]
    first = tables.outcomes.row(0, named=True)
    assert (first["prompt_tokens"], first["completion_tokens"]) == (349, 120)
    assert (first["cost_usd"], first["cost_estimated"]) == (0.00024, False)


def test_negative_scores_are_clipped_and_told(cached, loader_options):
    tables = load(cached(row(score=-0.03), row("AIME_1", score=0.5)), loader_options("claude-3-haiku"))
    assert tables.outcomes["score"].to_list() == [0.0, 0.5]
    assert "1 negative scores clipped to 0" in tables.notes


@pytest.mark.parametrize("score", [-3.0, 1.2])
def test_scores_beyond_reason_are_errors(cached, loader_options, score):
    with pytest.raises(InputError, match=rf"claude-3-haiku\.jsonl: row 1, score .* 'AIME_112': {score:g}"):
        load(cached(row(score=score)), loader_options("claude-3-haiku"))


def test_failed_call_is_no_observation(cached, loader_options):
    failed = row("AIME_1", score=0.0, cost=0.0, success=False, generated_answer=None)
    tables = load(cached(row(), failed), loader_options("claude-3-haiku"))
    assert tables.outcomes["prompt_id"].to_list() == ["AIME_112"]
    assert any(note.startswith("1 failed calls left out") for note in tables.notes)


def test_result_without_evaluation_has_no_score(cached, loader_options):
    (outcome,) = load(
        cached(row(evaluation_result=None)), loader_options("claude-3-haiku")
    ).outcomes.to_dicts()
    assert outcome["score"] is None
    assert outcome["cost_usd"] == pytest.approx((349 * 1.0 + 120 * 2.0) / 1e6)
    assert outcome["cost_estimated"] is True


def test_last_row_of_an_appended_cache_counts(cached, loader_options):
    tables = load(cached(row(score=0.0), row(score=1.0)), loader_options("claude-3-haiku"))
    assert tables.outcomes["score"].to_list() == [1.0]


def test_models_must_have_been_asked_the_same(cached, loader_options):
    cached(row())
    folder = cached(row(model="m2", question="Something else"), model="m2")
    with pytest.raises(
        InputError, match=r"m2\.jsonl: row 1: prompt 'AIME_112' differs from the one of .*haiku"
    ):
        load(folder, loader_options("claude-3-haiku", "m2"))


def test_it_is_the_one_evaluation_only_source():
    assert [name for name, loader in LOADERS.items() if loader.evaluation_only] == ["routerarena"]
