"""Joining tables and embeddings into arrays: order, gaps, and what is refused."""

import numpy as np
import polars as pl
import pytest

from pipeline import run as all_stages
from pipeline.compose import load_config
from pipeline.embedding_table import EmbeddingTable, write_embeddings
from pipeline.join import load_feedback, load_outcomes
from pipeline.layout import RunLayout
from pipeline.splits import SPLITS
from pipeline.tables import write_table
from policies.bundle import EncoderIdentity
from policies.errors import InputError

IDENTITY = EncoderIdentity("minilm", "0" * 64, "torch-fp32", 4)
POOL = """
prices:
  a: {input: 1.0, output: 1.0}
  b: {input: 2.0, output: 2.0}
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "pool.yaml").write_text(POOL)
    config = load_config([f"pool={tmp_path}/pool.yaml", f"run.dir={tmp_path}/run"])
    layout = RunLayout.of(config)
    prompts = pl.DataFrame(
        {"prompt_id": ["p2", "p1", "p3"], "prompt": ["two", "one", "three"], "task": ["t"] * 3}
    )
    outcomes = pl.DataFrame(
        {
            "prompt_id": ["p1", "p1", "p2", "p3"],
            "model": ["b", "a", "a", "b"],
            "score": [0.1, 0.2, None, 0.4],
            "cost_usd": [0.01, 0.02, 0.03, 0.04],
        }
    )
    write_table(prompts.to_arrow(), str(layout.prompts))
    write_table(outcomes.to_arrow(), str(layout.outcomes))
    splits = pl.DataFrame({"prompt_id": ["p1", "p2", "p3"], "split": ["train", "test", "train"]})
    write_table(splits.to_arrow(), str(layout.splits))
    embed(layout, ["p1", "p2", "p3"])
    return layout, config


def embed(layout, prompt_ids):
    vectors = np.array([[float(p[1])] * 4 for p in prompt_ids], dtype=np.float32)
    ids = np.array(prompt_ids, dtype=object)
    layout.embeddings.mkdir(parents=True, exist_ok=True)
    write_embeddings(EmbeddingTable(ids, ids, vectors, IDENTITY), layout.embeddings)


def log_event(**changes):
    event = {
        "event_id": "e1",
        "timestamp": "2026-01-01T00:00:00Z",
        "prompt_id": "p1",
        "w_quality": 0.5,
        "w_cost": 0.5,
        "eligible": ["a", "b"],
        "model": "b",
        "propensity": 0.5,
        "score": 1.0,
        "cost_usd": 0.01,
        "policy_version": "v",
    }
    return pl.DataFrame([{**event, **changes}])


def test_rows_follow_the_prompts_table_and_columns_the_pool(run):
    layout, config = run
    data = load_outcomes(layout, config, ("train",))
    assert data.prompt_ids.tolist() == ["p1", "p3"]
    assert data.scores[0].tolist() == [0.2, 0.1]
    assert data.embeddings[:, 0].tolist() == [1.0, 3.0]


def test_missing_outcome_is_nan_and_a_prompt_without_any_is_left_out(run):
    layout, config = run
    data = load_outcomes(layout, config, SPLITS)
    assert data.prompt_ids.tolist() == ["p1", "p3"]
    assert np.isnan(data.scores[1, 0])


def test_prompt_without_embedding_is_named_with_the_stage_to_run(run):
    layout, config = run
    embed(layout, ["p1", "p2"])
    with pytest.raises(
        InputError, match=r"prompt 'p3' has no embedding \(1 in all\); run `python -m pipeline embed"
    ):
        load_outcomes(layout, config, SPLITS)


def test_a_log_alone_is_not_taken_for_every_models_outcomes(run):
    layout, config = run
    layout.outcomes.rename(layout.feedback)
    with pytest.raises(InputError, match=r"a feedback log alone: learn with train\.mode=logged"):
        load_outcomes(layout, config, SPLITS)
    with pytest.raises(InputError, match=r"train\.mode=simulated_online: data=log .* allowed: logged"):
        all_stages.run(load_config(["data=log", "data.prompts=p.parquet", "data.log=log.parquet"]))


def test_event_becomes_action_column_and_eligible_mask(run):
    layout, config = run
    write_table(log_event(eligible=["b"]).to_arrow(), str(layout.feedback))
    log = load_feedback(layout, config, SPLITS)
    assert log.actions.tolist() == [1]
    assert log.eligible.tolist() == [[False, True]]


def test_score_that_has_not_arrived_is_nan_and_not_learned_from(run):
    layout, config = run
    write_table(log_event(score=None).cast({"score": pl.Float64}).to_arrow(), str(layout.feedback))
    log = load_feedback(layout, config, SPLITS)
    assert np.isnan(log.scores[0])
    assert len(log.scored()) == 0


def test_called_model_that_was_not_eligible_is_refused(run):
    layout, config = run
    write_table(log_event(eligible=["a"]).to_arrow(), str(layout.feedback))
    with pytest.raises(InputError, match="event 'e1': model 'b' is not in its eligible list"):
        load_feedback(layout, config, SPLITS)


def test_models_that_have_left_the_pool_drop_out_of_eligible(run):
    layout, config = run
    write_table(log_event(eligible=["a", "b", "retired"]).to_arrow(), str(layout.feedback))
    assert load_feedback(layout, config, SPLITS).eligible.tolist() == [[True, True]]
