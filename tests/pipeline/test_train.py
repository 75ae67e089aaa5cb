import json

import numpy as np
import polars as pl
import pytest

from pipeline import ingest, simulate, train
from pipeline.compose import load_config
from pipeline.embedding_table import EmbeddingTable, write_embeddings
from pipeline.join import load_feedback, load_outcomes
from pipeline.layout import RunLayout
from pipeline.train_barp import algorithm_config, fit, train_barp
from pipeline.training import TrainingInputs
from policies.base import greedy
from policies.bundle import EncoderIdentity, RouterBundle
from policies.constants import BestSinglePolicy
from policies.errors import InputError
from policies.preference import dial_grid, preferences_from_w_cost, reward
from policies.rllib.columns import TRAIN, VALIDATION, training_columns, write_columns
from policies.rllib.offline import TrainingDivergedError

DIMENSION = 6
ENCODER = EncoderIdentity("planted", "0" * 64, "torch-fp32", DIMENSION, 256)
POOL_YAML = """
models:
  cheap: {input_price_per_mtok_usd: 0.1, output_price_per_mtok_usd: 0.1}
  left: {input_price_per_mtok_usd: 1.0, output_price_per_mtok_usd: 4.0}
  right: {input_price_per_mtok_usd: 1.0, output_price_per_mtok_usd: 4.0}
"""
QUICK = (
    "policy=barp",
    "policy.max_epochs=15",
    "policy.lr=3e-3",
    "policy.batch_size=64",
    "policy.hidden=[32]",
    "policy.input_std=1.0",
)


def write_tables(folder, n=600):
    """'left' answers where the first coordinate is negative, 'right' elsewhere; 'cheap' is cheap and poor."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n, DIMENSION)).astype(np.float32)
    ids = [f"p{i}" for i in range(n)]
    right = vectors[:, 0] > 0
    score = {"cheap": np.full(n, 0.1), "left": (~right) * 1.0, "right": right * 1.0}
    cost = {"cheap": 1e-5, "left": 8e-4, "right": 8e-4}
    pl.DataFrame({"prompt_id": ids, "prompt": [f"prompt number {i}" for i in range(n)]}).write_parquet(
        folder / "prompts.parquet"
    )
    pl.concat(
        [
            pl.DataFrame(
                {
                    "prompt_id": ids,
                    "model": m,
                    "score": score[m],
                    "cost_usd": cost[m] * rng.uniform(0.5, 1.5, n),
                }
            )
            for m in score
        ]
    ).write_parquet(folder / "outcomes.parquet")
    (folder / "pool.yaml").write_text(POOL_YAML)
    return EmbeddingTable(np.array(ids, object), np.array(ids, object), vectors, ENCODER)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return folder, write_tables(folder)


def config_over(tables, run_dir, *overrides):
    """The configuration of a run over the tables, with the defaults of everything else."""
    folder, _ = tables
    return load_config(
        [
            "data=tables",
            f"data.prompts={folder / 'prompts.parquet'}",
            f"data.outcomes={folder / 'outcomes.parquet'}",
            f"pool={folder / 'pool.yaml'}",
            f"run.dir={run_dir}",
            *overrides,
        ]
    )


def make_config(tables, run_dir, *overrides):
    return config_over(tables, run_dir, *QUICK, *overrides)


def prepared(tables, run_dir, *overrides):
    """A run that is ready for training."""
    config = make_config(tables, run_dir, *overrides)
    layout = RunLayout.of(config)
    ingest.run(config)
    write_embeddings(tables[1], layout.embeddings)
    if config.train.mode == "logged":
        simulate.run(config)
    return config, layout


def test_vectors_of_texts_that_were_ingested_anew_are_not_used(tables, tmp_path):
    _, layout = prepared(tables, tmp_path / "run", "train.mode=logged")
    path = tmp_path / "renamed.csv"
    pl.read_parquet(layout.prompts).with_columns(prompt="Now: " + pl.col("prompt")).write_csv(path)
    again = make_config(tables, tmp_path / "run", f"data.prompts={path}")
    ingest.run(again)
    assert not layout.feedback.exists(), "nor is the log that was simulated on them"
    for stage in (train.run, simulate.run):
        with pytest.raises(InputError, match="embeddings: missing; run `python -m pipeline embed"):
            stage(again)
    with pytest.raises(InputError, match="pipeline embed"):
        load_outcomes(layout, again, ("train",))
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith("embeddings")] == []


def test_an_ingest_that_fails_leaves_the_run_as_it_was(tables, tmp_path):
    config, layout = prepared(tables, tmp_path / "run")
    with pytest.raises(InputError):
        ingest.run(make_config(tables, tmp_path / "run", "data.prompts=/nowhere.csv"))
    assert len(load_outcomes(layout, config, ("train",))) > 0


def test_tables_of_an_ingest_that_was_killed_are_not_learned_from(tables, tmp_path, monkeypatch):
    config, _ = prepared(tables, tmp_path / "run")

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ingest, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        ingest.run(config)
    with pytest.raises(InputError, match=r"splits.*missing; run `python -m pipeline ingest"):
        train.run(config)


def mean_dial_reward(policy, data, tau_usd):
    rewards = []
    for w in dial_grid():
        preferences = preferences_from_w_cost(float(w), len(data))
        chosen = greedy(policy.action_probabilities(data.embeddings, preferences)).astype(bool)
        rewards.append(reward(data.scores, data.costs_usd, preferences, tau_usd)[chosen].mean())
    return np.mean(rewards)


@pytest.mark.parametrize("mode", ["simulated_online", "logged"])
def test_trained_policy_beats_the_best_single_model(ray_session, tables, tmp_path, mode):
    config, layout = prepared(tables, tmp_path / "run", f"train.mode={mode}", "policy.max_epochs=30")
    bundle = train.run(config)
    test = load_outcomes(layout, config, ("test",))
    known = load_outcomes(layout, config, ("train",))
    single = BestSinglePolicy.fit(known.pool.models, known.scores, known.costs_usd, bundle.tau_usd)
    gain = mean_dial_reward(bundle.policy, test, bundle.tau_usd) - mean_dial_reward(
        single, test, bundle.tau_usd
    )
    assert gain > 0.02


def test_run_writes_a_bundle_that_says_what_it_learned_from(ray_session, tables, tmp_path):
    config, layout = prepared(tables, tmp_path / "run", "run.seed=5")
    train.run(config)
    bundle = RouterBundle.load(layout.policy)
    assert bundle.encoder == ENCODER
    assert bundle.tau_usd == load_outcomes(layout, config, ("train",)).tau_usd()
    assert bundle.notes["seed"] == 5
    assert bundle.notes["mode"] == "simulated_online"
    assert bundle.notes["train_rows"] == len(load_outcomes(layout, config, ("train",)))


def test_history_has_a_line_per_epoch_and_the_best_is_kept(ray_session, tables, tmp_path):
    config, layout = prepared(tables, tmp_path / "run")
    bundle = train.run(config)
    lines = [json.loads(line) for line in layout.history.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, bundle.notes["epochs"] + 1))
    best = max(lines, key=lambda line: line["validation_reward"])
    assert (best["epoch"], best["validation_reward"]) == (
        bundle.notes["best_epoch"],
        bundle.notes["validation_reward"],
    )
    assert {path.name for path in layout.root.iterdir()} >= {"policy", "history.jsonl"}
    assert not list(layout.root.glob(".training*"))


def test_same_seed_gives_the_same_artifact(ray_session, tables, tmp_path):
    versions = []
    for name in ("one", "two"):
        config, _ = prepared(tables, tmp_path / name, "policy.max_epochs=3")
        versions.append(train.run(config).policy_version)
    assert versions[0] == versions[1]


def test_logged_mode_reads_the_log_alone(ray_session, tables, tmp_path):
    config, layout = prepared(tables, tmp_path / "run", "train.mode=logged", "policy.max_epochs=2")
    layout.outcomes.unlink()
    bundle = train.run(config)
    assert bundle.tau_usd == load_feedback(layout, config, ("train",)).tau_usd()


def test_patience_stops_training(ray_session, tables, tmp_path):
    config, _ = prepared(tables, tmp_path / "run", "policy.lr=1e-12", "policy.patience_epochs=2")
    notes = train.run(config).notes
    assert (notes["stopped"], notes["best_epoch"], notes["epochs"]) == ("patience", 1, 3)


def test_immediate_divergence_fails_and_names_the_step(ray_session, tables, tmp_path):
    config, layout = prepared(tables, tmp_path / "run", "policy.lr=1e37")
    with pytest.raises(TrainingDivergedError, match="step 2"):
        train.run(config)
    assert not layout.policy.exists()


def test_late_divergence_keeps_the_best_policy_so_far(ray_session, tables, tmp_path):
    config, layout = prepared(tables, tmp_path / "run")
    data = load_outcomes(layout, config, ("train",))
    columns = training_columns(data)
    for part in (TRAIN, VALIDATION):
        write_columns(tmp_path / "arrays" / part, columns)
    settings = algorithm_config(config, data.tau_usd(), str(tmp_path / "arrays"), DIMENSION, 3)
    # The rate leaps after two epochs.
    settings.training(lr=[[0, 3e-3], [2 * len(data), 3e-3], [2 * len(data) + 1, 1e37]])
    lines: list[dict] = []
    inputs = TrainingInputs(data, data, data.tau_usd(), tmp_path, lines.append)
    algorithm = settings.build_algo()
    try:
        network, notes = fit(config, inputs, algorithm)
    finally:
        algorithm.stop()
    assert notes["stopped"].startswith("diverged: epoch")
    assert notes["best_epoch"] == max(lines, key=lambda line: line["validation_reward"])["epoch"]
    assert all(np.isfinite(p.numpy()).all() for p in network.state_dict().values())


def test_configured_tau_wins(ray_session, tables, tmp_path):
    config, _ = prepared(tables, tmp_path / "run", "train.tau_usd=0.5", "policy.max_epochs=1")
    assert train.run(config).tau_usd == 0.5


def test_prompt_without_embedding_is_named(tables, tmp_path):
    config, layout = prepared(tables, tmp_path / "run")
    _, table = tables
    short = EmbeddingTable(table.prompt_ids[:-1], table.content_hashes[:-1], table.vectors[:-1], ENCODER)
    write_embeddings(short, layout.embeddings)
    with pytest.raises(InputError, match=str(table.prompt_ids[-1])):
        train.run(config)


def test_training_before_ingest_names_the_stage(tables, tmp_path):
    with pytest.raises(InputError, match="ingest"):
        train.run(make_config(tables, tmp_path / "run"))


def test_every_configured_policy_has_a_trainer():
    assert train.TRAINERS["barp"] is train_barp
