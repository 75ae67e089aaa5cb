"""Fixtures shared by the tests of the batch side."""

import pytest

from pipeline.loaders.base import LoaderOptions
from policies.pool import ModelSpec, PoolFile
from tests.pipeline.clusters import Cluster


@pytest.fixture(scope="module")
def cluster():
    """Return two nodes, gone after the module."""
    started = Cluster.start()
    try:
        yield started
    finally:
        started.end()


@pytest.fixture
def loader_options():
    """Return a maker of loader options; every model costs 1 USD per million tokens in and 2 out."""

    def make(*models, **changes):
        specs = {model: ModelSpec(model, 1.0, 2.0) for model in models}
        return LoaderOptions(PoolFile("prices.yaml", specs, {}), **changes)

    return make


@pytest.fixture
def outcome_of():
    """Return a finder of one outcome as a dict."""

    def find(tables, prompt_id, model):
        rows = [
            row
            for row in tables.outcomes.iter_rows(named=True)
            if (row["prompt_id"], row["model"]) == (prompt_id, model)
        ]
        assert len(rows) == 1, rows
        return rows[0]

    return find
