import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.metrics.calibration import reliability


def test_error_is_the_weighted_distance_from_the_line():
    found = reliability(np.array([0.11, 0.13, 0.92, 0.98]), np.array([0.0, 1.0, 1.0, 1.0]))
    assert found.counts.tolist() == [2, 2]
    assert found.predicted == pytest.approx([0.12, 0.95])
    assert found.observed == pytest.approx([0.5, 1.0])
    assert found.expected_calibration_error == pytest.approx(0.5 * 0.38 + 0.5 * 0.05)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1), st.integers(1, 3)), min_size=1, max_size=40))
def test_weights_are_repetitions(rows):
    p, y, w = (np.array(column, dtype=np.float64) for column in zip(*rows))
    times = w.astype(int)
    weighted, repeated = reliability(p, y, w), reliability(np.repeat(p, times), np.repeat(y, times))
    assert weighted.counts == pytest.approx(repeated.counts)
    assert weighted.expected_calibration_error == pytest.approx(repeated.expected_calibration_error)


def test_predictions_outside_the_range_fall_into_the_outer_bins():
    found = reliability(np.array([-0.2, 1.3]), np.array([0.0, 1.0]))
    assert found.counts.tolist() == [1, 1]


def test_true_probabilities_have_a_small_error():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    assert reliability(p, (rng.random(20_000) < p).astype(np.float64)).expected_calibration_error < 0.02


def test_a_missing_outcome_is_refused():
    with pytest.raises(ValueError, match="finite"):
        reliability(np.array([0.5]), np.array([np.nan]))
