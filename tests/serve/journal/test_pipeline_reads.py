"""The exported folder, as it is, through the pipeline: ingest, embed, train and off-policy evaluation."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from pipeline import embed, ingest, train
from pipeline.compose import load_config, record_config
from pipeline.embedding_table import read_embeddings
from pipeline.evaluate_log import evaluate_log
from pipeline.layout import RunLayout
from policies.encoder import content_hash, encoder_identity
from policies.errors import InputError
from policies.pool import ModelPool, ModelSpec
from serve.journal.export import Exporter
from serve.journal.journal import Journal
from serve.journal.records import Outcome
from serve.settings.log import DecisionLogSettings
from tests.serve.journal.cases import a_decision

POOL = ModelPool("two", (ModelSpec("a", 1.0, 2.0), ModelSpec("b", 0.1, 0.2)))
IDENTITY = encoder_identity("minilm", "torch-fp32", 64)
N = 600


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, rng):
    """Folder of a log of vectors without texts: model a is right where the first coordinate is positive."""
    directory = tmp_path_factory.mktemp("served")
    journal = Journal.open(DecisionLogSettings(directory=str(directory), embeddings=True, rows_per_file=200))
    journal.describe_encoder("v1", IDENTITY)
    vectors = rng.standard_normal((N, IDENTITY.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    async def serve_all() -> None:
        for i in range(N):
            vector = vectors[i % (N - 50)]  # some prompts come twice
            model = "a" if rng.random() < 0.5 else "b"
            decision = a_decision(
                journal.ids.mint(),
                prompt_id=content_hash(f"text {i % (N - 50)}"),
                model=model,
                propensity=0.5,
                embedding=vector,
                prompt_tokens=100 + i % 7,
            )
            await journal.record(decision)
            right = (vector[0] > 0) == (model == "a")
            if i % 10:  # every tenth is never told
                outcome = Outcome(score=float(right), cost_usd=0.01 if model == "a" else 0.001)
                await journal.record_outcome(decision.decision_id, outcome, "feedback")

    asyncio.run(serve_all())
    folder = Exporter(journal).folder
    Exporter(journal).run()
    journal.close()
    return folder


def config_of(folder, tmp_path, *more):
    POOL.write(tmp_path / "pool.yaml")
    given = [
        "data=log",
        f"data.log={folder}/feedback",
        f"data.prompts={folder}/prompts",
        f"pool={tmp_path}/pool.yaml",
        "pool.name=two",
        "encoder.backend=torch-fp32",
        "encoder.max_tokens=64",
        f"run.root={tmp_path}",
        f"run.dir={tmp_path}/run",
        "train.mode=logged",
        "evaluate.bootstrap_samples=50",
        *more,
    ]
    config = load_config(given)
    record_config(config, given)
    return config


def test_a_log_of_vectors_trains_and_evaluates_a_policy(exported, tmp_path, ray_session):
    vectors = f"data.embeddings={exported}/embeddings"
    config = config_of(
        exported, tmp_path, vectors, "policy=direct", "data.split.train=0.5", "data.split.test=0.4"
    )
    ingest.run(config)
    embed.run(config)
    layout = RunLayout.of(config)
    ids, found, identity = read_embeddings(layout.embeddings)
    assert (len(ids), identity) == (N - 50, replace(IDENTITY, name=identity.name))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    bundle = train.run(config)
    assert bundle.training_means.scores == pytest.approx((0.5, 0.5), abs=0.15)
    section = evaluate_log(load_config([f"run={config.run.path}", f"evaluate.log={exported}/feedback"]))
    assert section["log"]["n_logged"] == N
    assert sum(section["log"]["n_without_outcome"].values()) > 0
    assert section["log"]["smallest_propensity"] == 0.5


def test_training_sees_the_length_on_which_the_router_decided(exported, tmp_path):
    config = config_of(exported, tmp_path, f"data.embeddings={exported}/embeddings")
    ingest.run(config)
    embed.run(config)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    data = train.load_training_data(RunLayout.of(config), config, {"train": ("train",)}, scratch)
    assert set(np.unique(data["train"].prompt_tokens)) == set(range(100, 107))


def test_without_the_vectors_it_says_what_is_missing(exported, tmp_path):
    config = config_of(exported, tmp_path)
    ingest.run(config)
    with pytest.raises(InputError, match=r"neither text nor vector.*data\.embeddings"):
        embed.run(config)


def test_vectors_of_another_encoder_are_refused(exported, tmp_path):
    config = config_of(exported, tmp_path, f"data.embeddings={exported}/embeddings", "encoder.max_tokens=128")
    ingest.run(config)
    with pytest.raises(InputError, match="vectors of"):
        embed.run(config)
