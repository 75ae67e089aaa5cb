"""The train stage with the outcome model: what it keeps, what it measures."""

import numpy as np
import polars as pl
import pytest

from pipeline import ingest, train
from pipeline.compose import load_config
from pipeline.embedding_table import EmbeddingTable, write_embeddings
from pipeline.join import load_outcomes
from pipeline.layout import RunLayout
from pipeline.train_outcome_model import algorithm_config, fit
from pipeline.training import TrainingInputs
from policies.bundle import EncoderIdentity
from policies.preference import dial_grid, preferences_from_w_cost, reward
from policies.rllib.columns import TRAIN, training_columns, write_columns

DIMENSION = 6
MODELS = ("cheap", "left", "right")
POOL_YAML = """
models:
  cheap: {input_price_per_mtok_usd: 0.1, output_price_per_mtok_usd: 0.1}
  left: {input_price_per_mtok_usd: 4.0, output_price_per_mtok_usd: 4.0}
  right: {input_price_per_mtok_usd: 1.0, output_price_per_mtok_usd: 4.0}
"""
QUICK = (
    "policy.members=2",
    "policy.simulated_online.epochs=4",
    "policy.simulated_online.hidden=16",
    "policy.simulated_online.min_steps_per_epoch=5",
    "policy.visits.epochs_per_round=2",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An embedded run whose prompts differ in length, and with it in what 'left' costs."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    n = 400
    vectors = rng.normal(size=(n, DIMENSION)).astype(np.float32)
    ids = [f"p{i}" for i in range(n)]
    prompts = [f"prompt number {i} " + "word " * int(rng.integers(0, 400)) for i in range(n)]
    right = vectors[:, 0] > 0
    score = {"cheap": np.full(n, 0.1), "left": (~right) * 1.0, "right": right * 1.0}
    lengths = np.array([len(prompt) / 4 for prompt in prompts])
    price = {"cheap": 1e-7, "left": 4e-6, "right": 1e-6}
    pl.DataFrame({"prompt_id": ids, "prompt": prompts}).write_parquet(folder / "prompts.parquet")
    pl.concat(
        pl.DataFrame(
            {
                "prompt_id": ids,
                "model": m,
                "score": score[m],
                "cost_usd": price[m] * (lengths + rng.uniform(50, 200, n)),
            }
        )
        for m in MODELS
    ).write_parquet(folder / "outcomes.parquet")
    (folder / "pool.yaml").write_text(POOL_YAML)
    config = load_config(
        [
            "data=tables",
            f"data.prompts={folder / 'prompts.parquet'}",
            f"data.outcomes={folder / 'outcomes.parquet'}",
            f"pool={folder / 'pool.yaml'}",
            f"run.dir={folder / 'run'}",
            *QUICK,
        ]
    )
    ingest.run(config)
    layout = RunLayout.of(config)
    encoder = EncoderIdentity("planted", "0" * 64, "torch-fp32", DIMENSION, 256)
    table = EmbeddingTable(np.array(ids, object), np.array(ids, object), vectors, encoder)
    write_embeddings(table, layout.embeddings)
    return config, layout


def test_validation_reward_is_that_of_decisions_that_know_the_prompts_lengths(ray_session, run):
    config, layout = run
    bundle = train.run(config)
    data = load_outcomes(layout, config, ("validation",))
    rewards = []
    for w_cost in dial_grid():
        w = preferences_from_w_cost(float(w_cost), len(data))
        decided = bundle.policy.action_probabilities(data.embeddings, w, prompt_tokens=data.prompt_tokens)
        value = reward(data.scores, data.costs_usd, w, bundle.tau_usd)
        rewards.append((decided * value).sum(axis=1).mean())
    assert bundle.notes["validation_reward"] == pytest.approx(np.mean(rewards), abs=1e-6)


def test_divergence_gives_the_router_of_the_last_good_epoch(ray_session, run, tmp_path):
    config, layout = run
    data = load_outcomes(layout, config, ("train",))
    write_columns(tmp_path / "arrays" / TRAIN, training_columns(data))
    prices = tuple(data.pool.prices_per_token_usd[:, 0])
    settings = algorithm_config(config, data.tau_usd(), str(tmp_path / "arrays"), DIMENSION, prices)
    heads = []

    def spoil(learner):
        learner._targets["score"][:] = float("nan")

    def record(line):
        heads.append(algorithm.policy(MODELS).head)
        if line["epoch"] == 3:
            algorithm.learner_group.foreach_learner(spoil)

    algorithm = settings.build_algo()
    try:
        policy, notes = fit(
            TrainingInputs(data, data, data.tau_usd(), tmp_path, record), algorithm, settings.epochs
        )
    finally:
        algorithm.stop()
    assert notes["stopped"].startswith("diverged: epoch 4")
    assert notes["epochs"] == 3
    assert np.array_equal(policy.head, heads[-1])
    assert np.isfinite(policy.head).all()
