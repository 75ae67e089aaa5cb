"""Shrinkage of means, the bias that meets them, and topics: arithmetic without training."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from policies.outcome_model.calibration import bias_for_means, shrunken_means
from policies.outcome_model.topics import TopicScores, fitted_share, topic_centroids, topic_means

means_of = st.lists(st.floats(0.05, 0.95), min_size=1, max_size=12)


@given(means=means_of, variance=st.floats(1e-6, 0.1))
def test_shrunken_means_lie_between_their_own_and_the_common_mean_in_the_same_order(means, variance):
    raw = np.array(means)
    found = shrunken_means(raw, np.full(len(raw), variance))
    assert (np.abs(found - raw.mean()) <= np.abs(raw - raw.mean()) + 1e-9).all()
    assert (np.diff(found[np.argsort(raw)]) >= -1e-9).all()


@given(means=st.lists(st.floats(0.05, 0.95), min_size=2, max_size=3))
def test_two_or_three_models_keep_their_means(means):
    assert shrunken_means(np.array(means), np.full(len(means), 0.01)) == pytest.approx(means)


def test_model_never_seen_takes_the_common_mean():
    found = shrunken_means(np.array([0.2, 0.4, 0.6, 0.99]), np.array([0.01, 0.01, 0.01, np.inf]))
    assert found[3] == pytest.approx(0.4)


def test_shrinkage_lowers_the_error_of_noisy_means():
    rng = np.random.default_rng(0)
    true = rng.normal(0.5, 0.02, (400, 11))
    raw = true + rng.normal(0, 0.02, true.shape)
    shrunk = np.stack([shrunken_means(row, np.full(11, 0.02**2)) for row in raw])
    assert ((shrunk - true) ** 2).mean() < 0.8 * ((raw - true) ** 2).mean()


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), target=st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3))
def test_bias_meets_the_means(seed, target):
    logits = np.random.default_rng(seed).normal(0, 2, (2, 50, 3)).astype(np.float32)
    shift = bias_for_means(logits, np.array(target))
    assert expit(logits + shift).mean(axis=(0, 1)) == pytest.approx(target, abs=1e-5)


def test_topics_separate_clusters_and_few_prompts_make_few_topics():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (centres[np.repeat([0, 1, 2], 30)] + rng.normal(0, 0.1, (90, 2))).astype(np.float32)
    found = topic_centroids(points, 3, seed=0)
    assert found.shape == (3, 2)
    assert np.abs(found[:, None] - centres).sum(axis=2).min(axis=0).max() < 0.2
    assert len(topic_centroids(points[:25], 60, seed=0)) == 1


def test_topic_mean_is_the_overall_one_where_nothing_was_seen_and_the_topics_own_where_much_was():
    labels = np.repeat([0, 1], 1000)
    scores = np.full((2000, 2), np.nan)
    scores[:1000, 0] = 1.0
    found = topic_means(labels, 2, scores, np.isfinite(scores), np.array([0.5, 0.3]))
    assert found[0, 0] == pytest.approx(1.0, abs=0.01)
    assert found[1].tolist() == [0.5, 0.3]
    assert found[0, 1] == 0.3


def test_prediction_is_the_mean_of_the_three_nearest_topics():
    topics = TopicScores(
        np.array([[0.0], [1.0], [2.0], [50.0]], np.float32), np.array([[0.0], [0.3], [0.6], [1.0]]), 0.5
    )
    assert topics.predict(np.array([[0.5], [40.0]], np.float32))[:, 0] == pytest.approx(
        [0.3, (1 + 0.6 + 0.3) / 3]
    )


@given(share=st.floats(0.0, 1.0), seed=st.integers(0, 100))
def test_share_that_made_the_scores_is_found_from_many_and_the_prior_stands_for_none(share, seed):
    rng = np.random.default_rng(seed)
    network, topical = rng.random((4000, 3)), rng.random((4000, 3))
    scores = (1 - share) * network + share * topical + rng.normal(0, 0.1, network.shape)
    assert fitted_share(network, topical, scores, prior_share=0.4) == pytest.approx(share, abs=0.03)
    assert fitted_share(network, topical, np.full_like(scores, np.nan), prior_share=0.4) == 0.4


def test_share_is_of_the_differences_between_models_not_of_a_prompts_difficulty():
    rng = np.random.default_rng(0)
    network, topical = rng.random((4000, 3)), rng.random((4000, 3))
    scores = 0.5 * network + 0.5 * topical + rng.normal(0, 0.5, (4000, 1))
    assert fitted_share(network, topical, scores, prior_share=0.0) == pytest.approx(0.5, abs=0.03)
