from __future__ import annotations

import polars as pl
import pytest

from pipeline.layout import RunLayout
from pipeline.tables import conform, write_table
from pipeline.training_means import training_means
from policies.bundle import TrainingMeans
from policies.pool import ModelPool, ModelSpec
from policies.schemas import OUTCOMES

POOL = ModelPool("p", tuple(ModelSpec(name, 1.0, 1.0) for name in ("a", "b", "never")))


@pytest.fixture
def layout(tmp_path):
    layout = RunLayout(tmp_path)
    rows = pl.DataFrame(
        [
            ("p1", "a", 1.0, 0.1, 2.0),
            ("p2", "a", 0.0, 0.1, None),
            ("p3", "a", 0.0, 0.1, 100.0),
            ("p1", "b", None, 0.1, None),
        ],
        schema=["prompt_id", "model", "score", "cost_usd", "latency_s"],
        orient="row",
    )
    write_table(conform(OUTCOMES, rows.to_arrow(), "outcomes"), str(layout.outcomes))
    splits = pl.DataFrame({"prompt_id": ["p1", "p2", "p3"], "split": ["train", "train", "test"]})
    write_table(splits.to_arrow(), str(layout.splits))
    return layout


def test_what_was_not_observed_counts_for_nothing(layout):
    assert training_means(layout, POOL, ("train",), logged=False) == TrainingMeans(
        (0.5, None, None), (2.0, None, None)
    )
