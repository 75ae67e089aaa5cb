import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.barp.network import BarpNetwork, NetworkShape
from policies.barp.validation import DialValidator
from policies.base import Policy
from policies.datasets import LoggedFeedback
from policies.pool import ModelPool, ModelSpec
from policies.preference import dial_grid

TAU_USD = 0.01


class ConstantNetwork(BarpNetwork):
    """Prefers the models in the order of the given logits, whatever the prompt."""

    def __init__(self, logits):
        super().__init__(NetworkShape(2, len(logits), head="linear"))
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)
        with torch.no_grad():
            self.first.bias.copy_(torch.tensor(logits))


def tensors(**columns):
    return {name: torch.as_tensor(np.asarray(values)) for name, values in columns.items()}


def full_table(scores, costs_usd):
    n = len(scores)
    return tensors(
        embeddings=np.zeros((n, 2), np.float32),
        scores=np.array(scores, np.float32),
        costs_usd=np.array(costs_usd, np.float32),
    )


def test_full_information_reward_is_the_tables_mean_over_the_dial():
    table = full_table([[1.0, 0.0], [0.0, 1.0]], [[0.02, 0.001], [0.005, 0.001]])
    reward = DialValidator.of(table, table, TAU_USD).mean_reward(ConstantNetwork([1.0, 0.0]))
    w = dial_grid()
    assert reward == pytest.approx(np.mean((1 - w) * 0.5 - w * np.mean([1.0, 0.5])))


def test_incomplete_prompts_do_not_enter_while_complete_ones_exist():
    table = full_table([[0.5, 0.0], [np.nan, 1.0]], [[0.0, 0.0], [np.nan, 0.0]])
    reward = DialValidator.of(table, table, TAU_USD).mean_reward(ConstantNetwork([1.0, 0.0]))
    assert reward == pytest.approx(np.mean((1 - dial_grid()) * 0.5))


def test_missing_outcome_is_not_decided_for():
    table = full_table([[np.nan, 0.8]], [[np.nan, 0.0]])
    reward = DialValidator.of(table, table, TAU_USD).mean_reward(ConstantNetwork([1.0, 0.0]))
    assert reward == pytest.approx(np.mean((1 - dial_grid()) * 0.8))


def test_logits_that_are_not_finite_give_nan():
    table = full_table([[0.5, 0.0]], [[0.0, 0.0]])
    assert np.isnan(DialValidator.of(table, table, TAU_USD).mean_reward(ConstantNetwork([np.inf, 0.0])))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_logged_estimate_is_unbiased_for_any_propensities(seed):
    rng = np.random.default_rng(seed)
    n_models = 3
    scores, costs = rng.random((1, n_models)), rng.random((1, n_models)) * 0.02
    propensities = rng.dirichlet(np.ones(n_models)) * 0.9 + 0.1 / n_models
    train = tensors(
        actions=np.arange(n_models),
        scores=rng.random(n_models).astype(np.float32),
        costs_usd=(rng.random(n_models) * 0.02).astype(np.float32),
    )
    network = ConstantNetwork(rng.normal(size=n_models).astype(np.float32).tolist())
    estimate = 0.0
    for action in range(n_models):
        log = tensors(
            embeddings=np.zeros((1, 2), np.float32),
            actions=np.array([action]),
            propensities=propensities[action : action + 1].astype(np.float32),
            scores=scores[:, action].astype(np.float32),
            costs_usd=costs[:, action].astype(np.float32),
            eligible=np.ones((1, n_models), bool),
        )
        estimate += propensities[action] * DialValidator.of(log, train, TAU_USD).mean_reward(network)
    table = full_table(scores, costs)
    truth = DialValidator.of(table, table, TAU_USD).mean_reward(network)
    assert estimate == pytest.approx(truth, abs=1e-5)


def test_ineligible_model_is_not_decided_for():
    log = tensors(
        embeddings=np.zeros((1, 2), np.float32),
        actions=np.array([1]),
        propensities=np.array([1.0], np.float32),
        scores=np.array([0.8], np.float32),
        costs_usd=np.array([0.0], np.float32),
        eligible=np.array([[False, True]]),
    )
    reward = DialValidator.of(log, log, TAU_USD).mean_reward(ConstantNetwork([1.0, 0.0]))
    assert reward == pytest.approx(np.mean((1 - dial_grid()) * 0.8))


class CallsByLength(Policy):
    """Calls the first model for prompts of at least 100 tokens, else the second."""

    models = ("long", "short")

    def action_probabilities(self, embeddings, preferences, eligible=None, *, prompt_tokens=None):
        return np.where(prompt_tokens[:, None] >= 100, [[1.0, 0.0]], [[0.0, 1.0]])


def test_policy_is_told_the_lengths_of_the_prompts_that_are_judged():
    table = full_table([[0.9, 0.1], [np.nan, 0.2], [0.3, 0.4]], [[0.0, 0.0], [np.nan, 0.0], [0.0, 0.0]])
    table["prompt_tokens"] = torch.tensor([100.0, 1_000.0, 10.0])
    reward = DialValidator.of(table, table, TAU_USD).mean_reward_of(CallsByLength())
    assert reward == pytest.approx(np.mean((1 - dial_grid()) * (0.9 + 0.4) / 2))


def test_a_log_that_is_mapped_for_reading_is_judged_without_a_warning():
    name, one = np.array(["e1"]), np.ones(1)
    pool = ModelPool("pair", (ModelSpec("a", 1.0, 1.0), ModelSpec("b", 1.0, 1.0)))
    embeddings = np.zeros((1, 2), np.float32)
    embeddings.flags.writeable = False
    eligible, column = np.ones((1, 2), bool), np.zeros(1, np.int64)
    half = np.full((1, 2), 0.5, np.float32)
    log = LoggedFeedback(name, name, name, pool, embeddings, one, half, eligible, column, one, one, one, one)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DialValidator.of_rows(log, log, TAU_USD)
