import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from policies.barp.algorithm import BarpAlgorithm, BarpAlgorithmConfig
from policies.barp.learner import (
    MASKED_LOGIT,
    batch_baseline,
    importance_weights,
    sample_actions,
    uniform_preferences,
)
from policies.barp.policy import BarpPolicy
from policies.base import greedy
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError
from policies.pool import ModelPool, ModelSpec
from policies.preference import preferences_from_w_cost
from policies.rllib.columns import TRAIN, VALIDATION, open_columns, training_columns, write_columns
from policies.rllib.offline import TrainingDivergedError

TAU_USD = 0.01
POOL = ModelPool("pool", tuple(ModelSpec(name, 1.0, 1.0) for name in ("cheap", "left", "right")))


def planted_table(n=500, missing=0.0, seed=0):
    """'left' answers where the first coordinate is negative, 'right' elsewhere; 'cheap' is free and poor."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(n, 6)).astype(np.float32)
    right = embeddings[:, 0] > 0
    scores = np.stack([np.full(n, 0.1), np.where(right, 0.0, 1.0), np.where(right, 1.0, 0.0)], axis=1)
    costs_usd = np.tile([0.0, 0.008, 0.008], (n, 1))
    gone = rng.random((n, 3)) < missing
    scores[gone], costs_usd[gone] = np.nan, np.nan
    names = np.array([f"p{i}" for i in range(n)])
    tokens = np.full(n, 10.0)
    return OutcomeMatrix(names, names, POOL, embeddings, tokens, scores, costs_usd, np.full((n, 3), np.nan))


def uniform_log(table, seed=0):
    n = len(table)
    actions = np.random.default_rng(seed).integers(0, 3, n)
    at = (np.arange(n), actions)
    return LoggedFeedback(
        event_ids=table.prompt_ids,
        prompt_ids=table.prompt_ids,
        tasks=table.tasks,
        pool=POOL,
        embeddings=table.embeddings,
        prompt_tokens=table.prompt_tokens,
        preferences=preferences_from_w_cost(0.5, n),
        eligible=np.ones((n, 3), bool),
        actions=actions,
        propensities=np.full(n, 1 / 3),
        scores=table.scores[at],
        costs_usd=table.costs_usd[at],
        completion_tokens=np.full(n, np.nan),
    )


def build(folder, train, validation=None, mode="simulated_online", seed=0, num_learners=0, **training):
    validation = train if validation is None else validation
    if not folder.exists():
        write_columns(folder / TRAIN, training_columns(train))
        write_columns(folder / VALIDATION, training_columns(validation))
    settings = {
        "lr": 0.01,
        "train_batch_size_per_learner": 50,
        "hidden": (32,),
        "tau_usd": TAU_USD,
        **training,
    }
    config = (
        BarpAlgorithmConfig()
        .data(folder, embedding_dim=6, n_models=3)
        .training(mode=mode, **settings)
        .learners(num_learners=num_learners)
        .debugging(seed=seed)
    )
    return config.build_algo()


def dial_choices(algorithm, table, w_cost):
    policy = BarpPolicy(POOL.models, algorithm.network())
    p = policy.action_probabilities(table.embeddings, preferences_from_w_cost(w_cost, len(table)))
    return greedy(p).argmax(axis=1)


@pytest.mark.parametrize("mode", ["simulated_online", "logged"])
def test_learns_planted_structure(ray_session, tmp_path, mode):
    table, held_out = planted_table(1500), planted_table(300, seed=1)
    train, validation = (
        (table, held_out) if mode == "simulated_online" else map(uniform_log, (table, held_out))
    )
    algorithm = build(tmp_path / "arrays", train, validation, mode=mode)
    try:
        for _ in range(25):
            algorithm.train()
        right = held_out.embeddings[:, 0] > 0
        assert np.mean(dial_choices(algorithm, held_out, 0.0) == np.where(right, 2, 1)) > 0.9
        assert np.mean(dial_choices(algorithm, held_out, 1.0) == 0) > 0.95
    finally:
        algorithm.stop()


def trained_state(folder, seed=0, epochs=2, num_learners=0):
    algorithm = build(folder, planted_table(), seed=seed, num_learners=num_learners, dropout=0.2)
    try:
        for _ in range(epochs):
            result = algorithm.train()
        return algorithm.module_state(), result["validation_reward"]
    finally:
        algorithm.stop()


def test_same_seed_same_weights_another_seed_others(ray_session, tmp_path):
    first, again, other = (trained_state(tmp_path / str(i), seed) for i, seed in enumerate((3, 3, 4)))
    for name, value in first[0].items():
        np.testing.assert_array_equal(value, again[0][name])
    assert any((value != other[0][name]).any() for name, value in first[0].items())


def test_callers_random_state_is_left_alone(ray_session, tmp_path):
    algorithm = build(tmp_path / "arrays", planted_table(100))
    try:
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        algorithm.train()
        torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    finally:
        algorithm.stop()


def test_restored_run_goes_on_as_if_unbroken(ray_session, tmp_path):
    algorithm = build(tmp_path / "arrays", planted_table(), dropout=0.2)
    algorithm.train()
    checkpoint = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    restored = BarpAlgorithm.from_checkpoint(checkpoint)
    try:
        unbroken, resumed = algorithm.train(), restored.train()
        assert resumed["training_iteration"] == unbroken["training_iteration"] == 2
        assert resumed["loss"] == unbroken["loss"]
        for name, value in algorithm.module_state().items():
            np.testing.assert_array_equal(value, restored.module_state()[name])
    finally:
        algorithm.stop()
        restored.stop()


def test_an_epoch_that_is_begun_again_counts_once(ray_session, tmp_path):
    algorithm = build(tmp_path / "arrays", planted_table())
    try:
        algorithm.train()
        algorithm.training_step()  # its learner died, say
        algorithm.training_step()
        assert algorithm.metrics.peek(NUM_ENV_STEPS_SAMPLED_LIFETIME) == 2 * 500
        assert algorithm.train()[NUM_ENV_STEPS_SAMPLED_LIFETIME] == 2 * 500
        assert algorithm.train()[NUM_ENV_STEPS_SAMPLED_LIFETIME] == 3 * 500
    finally:
        algorithm.stop()


def test_two_learners_train_one_policy(ray_session, tmp_path):
    state, reward = trained_state(tmp_path / "arrays", num_learners=2)
    assert all(np.isfinite(value).all() for value in state.values())
    assert np.isfinite(reward)


def test_missing_outcomes_are_never_sampled(ray_session, tmp_path):
    # A sampled missing entry would make the reward, and with it the loss, NaN.
    algorithm = build(tmp_path / "arrays", planted_table(missing=0.5))
    try:
        for _ in range(5):
            assert np.isfinite(algorithm.train()["loss"])
    finally:
        algorithm.stop()


def test_divergence_names_epoch_and_step(ray_session, tmp_path):
    algorithm = build(tmp_path / "arrays", planted_table(), lr=1e37)
    try:
        with pytest.raises(TrainingDivergedError, match=r"epoch 1, step 2\b"):
            algorithm.train()
    finally:
        algorithm.stop()


@given(
    probability=st.floats(0.0, 1.0, width=32),
    propensity=st.floats(2**-20, 1.0, width=32),
    clip=st.floats(0.5, 100.0),
)
def test_importance_weight_is_the_ratio_up_to_its_bound(probability, propensity, clip):
    weight = importance_weights(torch.tensor([probability]), torch.tensor([propensity]), clip).item()
    assert weight <= clip * (1 + 1e-6)
    assert weight == pytest.approx(min(probability / propensity, clip), rel=1e-5)


def test_actions_are_drawn_with_their_probabilities_and_never_where_masked():
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 2.0, MASKED_LOGIT, 0.0]).expand(40_000, 4)
    log_probabilities = torch.log_softmax(logits, dim=1)
    drawn = torch.bincount(sample_actions(log_probabilities)[:, 0], minlength=4) / 40_000
    assert drawn[2] == 0
    torch.testing.assert_close(drawn, log_probabilities[0].exp(), atol=0.01, rtol=0)


def test_mean_baseline_is_the_weighted_batch_mean():
    reward, weight = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([1.0, 3.0, 0.0])
    baseline = batch_baseline(reward, uniform_preferences(3, reward.device), weight, "mean")
    torch.testing.assert_close(baseline, torch.full((3,), 0.25))


def test_preference_baseline_takes_out_what_the_preference_explains():
    torch.manual_seed(0)
    w = uniform_preferences(256, torch.device("cpu"))
    reward = 0.2 + 0.7 * w[:, 0] - 0.3 * w[:, 0] ** 2
    baseline = batch_baseline(reward, w, torch.ones(256), "preference")
    torch.testing.assert_close(baseline, reward, atol=1e-3, rtol=0)


@pytest.mark.parametrize("n", [1, 2])
def test_preference_baseline_of_a_tiny_batch_is_finite(n):
    w = uniform_preferences(n, torch.device("cpu"))
    assert torch.isfinite(batch_baseline(torch.ones(n), w, torch.ones(n), "preference")).all()


def test_preferences_are_uniform_on_the_simplex():
    torch.manual_seed(0)
    w = uniform_preferences(20_000, torch.device("cpu"))
    torch.testing.assert_close(w.sum(dim=1), torch.ones(20_000))
    counts, _ = np.histogram(w[:, 1].numpy(), bins=10, range=(0, 1))
    assert np.abs(counts - 2000).max() < 250


def test_events_without_outcome_are_left_out():
    log = uniform_log(planted_table(20))
    log.scores[:5] = np.nan
    log.costs_usd[5:8] = np.nan
    assert len(training_columns(log)["actions"]) == 12


def test_nothing_observed_is_an_input_error():
    table = planted_table(5)
    table.scores[:] = np.nan
    with pytest.raises(InputError, match="none of the 5 rows"):
        training_columns(table)


def test_columns_survive_the_disk(tmp_path):
    columns = training_columns(uniform_log(planted_table(30)))
    write_columns(tmp_path / "arrays", columns)
    for name, values in open_columns(tmp_path / "arrays").items():
        np.testing.assert_array_equal(values.numpy(), columns[name])


def test_foreign_folder_is_refused(tmp_path):
    np.save(tmp_path / "obs.npy", np.zeros(3))
    with pytest.raises(InputError, match="obs"):
        open_columns(tmp_path)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("tau_usd", 0.0), ("tau_usd", float("nan")), ("importance_clip", 0.0), ("mode", "online")],
)
def test_settings_out_of_range_are_refused(tmp_path, setting, value):
    config = BarpAlgorithmConfig().data(tmp_path, embedding_dim=6, n_models=3)
    config.training(**{"tau_usd": TAU_USD, setting: value})
    with pytest.raises(ValueError, match=setting):
        config.validate()


def test_misspelt_setting_is_refused():
    with pytest.raises(TypeError, match="entropy_coef"):
        BarpAlgorithmConfig().training(entropy_coef=0.1)
