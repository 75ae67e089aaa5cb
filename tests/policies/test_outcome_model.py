"""The outcome model: arithmetic, the dial by construction, and learning from what was revealed alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import greedy
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.outcome_model.algorithm import OutcomeModelAlgorithm, OutcomeModelConfig
from policies.outcome_model.cost_term import expected_cost_term
from policies.outcome_model.features import ContextFeatures
from policies.outcome_model.policy import OutcomeModelPolicy
from policies.pool import ModelPool, ModelSpec
from policies.preference import dial_grid, preferences_from_w_cost, reward
from policies.rllib.columns import TRAIN, training_columns, write_columns

TAU_USD = 0.01
POOL = ModelPool("pool", tuple(ModelSpec(name, 1.0, 1.0) for name in ("cheap", "left", "right")))


def planted_table(n=400, missing=0.0, seed=0):
    """'left' answers where the first coordinate is negative, 'right' elsewhere; 'cheap' is poor and cheap."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(n, 6)).astype(np.float32)
    right = embeddings[:, 0] > 0
    scores = np.stack([np.full(n, 0.1), ~right * 1.0, right * 1.0], axis=1)
    costs_usd = np.tile([0.0002, 0.004, 0.004], (n, 1)) * rng.uniform(0.8, 1.25, (n, 3))
    gone = rng.random((n, 3)) < missing
    scores[gone], costs_usd[gone] = np.nan, np.nan
    names = np.array([f"p{i}" for i in range(n)])
    return OutcomeMatrix(
        names, names, POOL, embeddings, np.full(n, 50.0), scores, costs_usd, np.full((n, 3), np.nan)
    )


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


def build(folder, data, mode="simulated_online", seed=0, **training):
    if not folder.exists():
        write_columns(folder / TRAIN, training_columns(data))
    small = {"epochs": 6, "epochs_per_round": 2, "hidden": 16, "members": 2, "lr": 0.02, "dropout": 0.0}
    small["topic_share"] = 0.1
    config = (
        OutcomeModelConfig()
        .data(folder, embedding_dim=6, input_price_per_token_usd=(1e-6, 1e-6, 1e-6))
        .training(mode=mode, tau_usd=TAU_USD, train_batch_size_per_learner=50, **{**small, **training})
        .debugging(seed=seed)
    )
    return config.build_algo()


def trained(folder, data, epochs=6, **kwargs):
    algorithm = build(folder, data, epochs=epochs, **kwargs)
    try:
        for _ in range(epochs):
            algorithm.train()
        return algorithm.policy(POOL.models)
    finally:
        algorithm.stop()


@pytest.fixture(scope="module")
def policy(ray_session, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("policy") / "arrays", planted_table())


def share_of_oracle_gain(policy, seed=9):
    """Least share, over the dial, of what the oracle gains over the best single model."""
    test = planted_table(seed=seed)
    gains = []
    for w_cost in (0.0, 0.3, 0.6):
        w = preferences_from_w_cost(w_cost, len(test))
        value = reward(test.scores, test.costs_usd, w, TAU_USD)
        decided = policy.action_probabilities(test.embeddings, w, prompt_tokens=test.prompt_tokens)
        best_single, oracle = value.mean(axis=0).max(), value.max(axis=1).mean()
        gains.append(((greedy(decided) * value).sum(axis=1).mean() - best_single) / (oracle - best_single))
    return min(gains)


@settings(max_examples=25)
@given(m=st.floats(-12, 0), sigma=st.floats(0.05, 2.0), prompt=st.floats(0.0, 0.02), tau=st.floats(1e-3, 0.1))
def test_expected_cost_term_is_the_mean_over_draws(m, sigma, prompt, tau):
    # Quantile midpoints instead of random draws: the comparison has no noise, only a discretisation error.
    from scipy.stats import norm

    x = np.exp(m + sigma * norm.ppf((np.arange(20_000) + 0.5) / 20_000))
    by_draws = np.minimum((prompt + x) / tau, 1.0).mean()
    closed = expected_cost_term(np.array([[m]]), np.array([sigma]), np.array([[prompt]]), tau)[0, 0]
    assert closed == pytest.approx(by_draws, abs=2e-3)
    assert 0.0 <= closed <= 1.0 + 1e-12


def test_features_have_the_stated_scale_and_survive_fewer_dimensions_than_components():
    rng = np.random.default_rng(0)
    x, tokens = rng.normal(size=(300, 5)).astype(np.float32), rng.integers(5, 500, 300).astype(float)
    features = ContextFeatures.fit(x, tokens, components=64, token_scale=0.3)
    inputs = features.transform(x, tokens)
    assert inputs.shape == (300, 6)
    assert inputs[:, :5].std() == pytest.approx(0.35, rel=1e-3)
    assert inputs[:, 5].std() == pytest.approx(0.3, rel=1e-3)


def test_length_far_from_training_does_not_run_away():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 5)).astype(np.float32)
    features = ContextFeatures.fit(x, rng.integers(5, 500, 50).astype(float), components=4, token_scale=0.3)
    assert abs(features.transform(x[:1], np.array([1e9]))[0, -1]) <= 4 * 0.3 + 1e-6


def test_one_length_in_training_makes_length_irrelevant():
    x = np.eye(5, dtype=np.float32)
    features = ContextFeatures.fit(x, np.full(5, 50.0), components=4, token_scale=0.3)
    assert features.transform(x[:1], np.array([5000.0]))[0, -1] == 0.0


def test_learns_which_model_answers_which_prompt_online(policy):
    gains = [share_of_oracle_gain(replace(policy, topics=None)), share_of_oracle_gain(policy)]
    assert min(gains) > 0.55, gains


def test_learns_it_from_one_logged_outcome_a_prompt(ray_session, tmp_path):
    log = uniform_log(planted_table(n=900))
    learned = trained(tmp_path / "arrays", log, mode="logged", epochs=15, weight_decay=0.01, topic_share=0.0)
    assert share_of_oracle_gain(learned) > 0.5


def test_policy_of_before_there_were_topics_still_loads(policy, tmp_path):
    plain = replace(policy, topics=None)
    plain.save(tmp_path)
    again = OutcomeModelPolicy.load(tmp_path, POOL.models)
    assert again.topics is None
    table = planted_table(seed=4)
    assert np.array_equal(
        again.expected_outcomes(table.embeddings).scores, plain.expected_outcomes(table.embeddings).scores
    )


def test_topics_alone_know_which_model_answers_which_prompt(policy):
    assert share_of_oracle_gain(replace(policy, topics=replace(policy.topics, share=1.0))) > 0.2


def test_share_of_topics_falls_where_the_network_knows_better(policy):
    fresh = planted_table(seed=5)
    generous = replace(policy, topics=replace(policy.topics, share=0.9))
    fitted = generous.with_fitted_share(fresh.embeddings, fresh.prompt_tokens, fresh.scores)
    assert fitted.topics.share < 0.5


def test_weights_put_back_give_the_policy_they_came_from(ray_session, tmp_path):
    algorithm = build(tmp_path / "arrays", planted_table(n=100), mode="simulated_online", visits_per_round=99)
    try:
        algorithm.train()
        weights, before = algorithm.weights(), algorithm.policy(POOL.models)
        algorithm.train()
        changed = algorithm.policy(POOL.models)
        algorithm.set_weights(weights)
        after = algorithm.policy(POOL.models)
    finally:
        algorithm.stop()
    assert not np.array_equal(changed.head, before.head)
    assert np.array_equal(after.head, before.head)


def test_mean_predictions_are_the_models_shrunken_mean_scores(policy):
    table = planted_table()
    found = replace(policy, topics=None).expected_outcomes(table.embeddings, table.prompt_tokens)
    assert found.scores.mean(axis=0) == pytest.approx(table.scores.mean(axis=0), abs=0.03)


def test_dial_never_raises_the_expected_cost_of_any_prompt(policy):
    rng = np.random.default_rng(1)
    x, tokens = rng.normal(size=(200, 6)).astype(np.float32), rng.uniform(1, 5000, 200)
    terms = policy.expected_outcomes(x, tokens).cost_terms
    costs = []
    for w_cost in dial_grid():
        decided = policy.action_probabilities(
            x, preferences_from_w_cost(float(w_cost), 200), prompt_tokens=tokens
        )
        costs.append(terms[np.arange(200), decided.argmax(axis=1)])
    assert (np.diff(np.stack(costs), axis=0) <= 1e-12).all()


def test_over_the_dial_it_decides_as_at_each_setting(policy):
    rng = np.random.default_rng(2)
    x, tokens = rng.normal(size=(50, 6)).astype(np.float32), rng.uniform(1, 5000, 50)
    dial = preferences_from_w_cost(dial_grid())
    alone = [policy.action_probabilities(x, np.tile(w, (50, 1)), prompt_tokens=tokens) for w in dial]
    np.testing.assert_array_equal(list(policy.over_dial(x, dial, prompt_tokens=tokens)), alone)


@settings(max_examples=20)
@given(mask=st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=4, max_size=4))
def test_decides_among_eligible_models_only(policy, mask):
    eligible = np.array(mask)
    p = policy.action_probabilities(np.zeros((4, 6), np.float32), preferences_from_w_cost(0.2, 4), eligible)
    assert np.allclose(p.sum(axis=1), 1.0)
    assert (p[~eligible] == 0).all()


def test_longer_prompt_costs_more(policy):
    x = np.zeros((2, 6), np.float32)
    terms = policy.expected_outcomes(x, np.array([10.0, 5000.0])).cost_terms
    assert (terms[1] > terms[0]).all()


def test_predicted_costs_average_to_the_observed_ones(policy):
    table = planted_table()
    predicted = policy.expected_outcomes(table.embeddings, table.prompt_tokens).cost_terms.mean(axis=0)
    assert predicted == pytest.approx((table.costs_usd / TAU_USD).mean(axis=0), rel=0.05)


def test_saved_and_loaded_policy_decides_the_same(policy, tmp_path):
    policy.save(tmp_path)
    again = OutcomeModelPolicy.load(tmp_path, POOL.models)
    table = planted_table(seed=4)
    before = policy.expected_outcomes(table.embeddings, table.prompt_tokens)
    after = again.expected_outcomes(table.embeddings, table.prompt_tokens)
    assert np.array_equal(before.scores, after.scores)
    assert np.array_equal(before.cost_terms, after.cost_terms)


def test_same_seed_same_policy_and_another_seed_another(ray_session, tmp_path, policy):
    again = trained(tmp_path / "arrays", planted_table())
    other = trained(tmp_path / "arrays", planted_table(), seed=1)
    assert np.array_equal(again.head, policy.head)
    assert not np.array_equal(other.head, policy.head)


def test_outcomes_that_were_never_revealed_do_not_matter(ray_session, tmp_path):
    table = planted_table(n=100)
    log = uniform_log(table)
    full = training_columns(log)
    changed = replace(table, scores=1.0 - table.scores)
    at = (np.arange(100), log.actions)
    assert (changed.scores[at] != table.scores[at]).any()
    a = trained(tmp_path / "a", log, mode="logged", epochs=2)
    b = trained(tmp_path / "b", replace(log, scores=full["scores"].astype(float)), mode="logged", epochs=2)
    assert np.array_equal(a.head, b.head)


def test_online_training_reveals_at_most_one_entry_a_visit_and_never_a_missing_one(ray_session, tmp_path):
    table = planted_table(n=120, missing=0.3)
    table = table.rows(table.observed.any(axis=1))
    algorithm = build(tmp_path / "arrays", table, visits_per_round=1)
    try:
        first = algorithm.train()["revealed"]
        algorithm.train()
        third = algorithm.train()["revealed"]
        mask = next(iter(algorithm.learner_group.foreach_learner(lambda learner: learner._revealed))).get()
    finally:
        algorithm.stop()
    assert first == pytest.approx(1 / 3)
    assert first < third <= 2 / 3 + 1e-9
    assert not (mask & ~table.observed).any()


def test_restored_training_ends_where_an_unbroken_one_does(ray_session, tmp_path):
    table = planted_table(n=150)
    unbroken = trained(tmp_path / "arrays", table)
    algorithm = build(tmp_path / "arrays", table)
    try:
        for _ in range(3):
            algorithm.train()
        algorithm.save_to_path(tmp_path / "checkpoint")
    finally:
        algorithm.stop()
    restored = OutcomeModelAlgorithm.from_checkpoint(tmp_path / "checkpoint")
    try:
        for _ in range(3):
            restored.train()
        assert np.array_equal(restored.policy(POOL.models).head, unbroken.head)
    finally:
        restored.stop()


def test_misspelt_setting_fails():
    with pytest.raises(TypeError, match="memebers"):
        OutcomeModelConfig().training(memebers=3)
