"""Intervals of a mean of per-event contributions.

Events on one prompt are not independent: pass ``groups`` (one label per event) and whole groups are
resampled.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from policies.ope.logged import Float64Array, FloatArray

DEFAULT_RESAMPLES = 1000
_CHUNK = 64  # resamples held in memory at once


class Interval(NamedTuple):
    """A two-sided confidence interval of a mean."""

    low: float
    high: float


class Moments(NamedTuple):
    """Mean of contributions, its standard error and the number of independent units (events or groups)."""

    mean: float
    standard_error: float
    n_units: int


def moments(contributions: FloatArray, groups: npt.ArrayLike | None = None) -> Moments:
    """Return the mean and its standard error, clustered by ``groups`` when given.

    The mean is a ratio (sum over groups / number of events), so the error is that of the group sums of
    deviations. With one unit the standard error is infinite.

    Raises:
        ValueError: empty, not one-dimensional or not finite contributions, or labels of another length.
    """
    x = _checked(contributions)
    deviations = x - x.mean()
    sums = deviations if groups is None else _group_sums(deviations, groups)
    units = sums.size
    if units < 2:
        return Moments(float(x.mean()), float("inf"), units)
    error = np.sqrt((sums**2).sum() * units / (units - 1)) / x.size
    return Moments(float(x.mean()), float(error), units)


def normal_interval(
    contributions: FloatArray, confidence: float = 0.95, groups: npt.ArrayLike | None = None
) -> Interval:
    """Return mean +- t * standard error (Student's t with units - 1 degrees of freedom)."""
    _check_confidence(confidence)
    m = moments(contributions, groups)
    if m.n_units < 2:
        return Interval(float("-inf"), float("inf"))
    half = float(stats.t.ppf(0.5 + confidence / 2.0, m.n_units - 1)) * m.standard_error
    return Interval(m.mean - half, m.mean + half)


def bootstrap_interval(
    contributions: FloatArray,
    confidence: float = 0.95,
    groups: npt.ArrayLike | None = None,
    n_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval over events (or groups of events)."""
    _check_confidence(confidence)
    means, _ = _resample(contributions, groups, n_resamples, seed)
    tail = (1.0 - confidence) / 2.0
    return Interval(float(np.quantile(means, tail)), float(np.quantile(means, 1.0 - tail)))


def bootstrap_intervals(
    columns: FloatArray,
    confidence: float = 0.95,
    groups: npt.ArrayLike | None = None,
    n_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Float64Array:
    """Return the percentile bootstrap interval of every column's mean, shape (J, 2), from shared resamples.

    Args:
        columns: shape (n, J), contributions of J estimates on the same events.
        confidence: of each interval.
        groups: labels of events that depend on one another.
        n_resamples: number of resamples.
        seed: of the resampling.
    """
    _check_confidence(confidence)
    x = np.asarray(columns, dtype=np.float64)
    labels = np.arange(len(x)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if x.ndim != 2 or labels.shape != (len(x),) or n_resamples < 1:
        raise ValueError(f"columns {x.shape}, groups {labels.shape}, n_resamples {n_resamples}: do not fit")
    sums = np.zeros((int(labels.max()) + 1, x.shape[1]))
    np.add.at(sums, labels, x)
    sizes = np.bincount(labels).astype(np.float64)
    rng = np.random.default_rng(seed)
    units = len(sums)
    means = np.empty((n_resamples, x.shape[1]))
    for start in range(0, n_resamples, _CHUNK):
        counts = rng.multinomial(units, np.full(units, 1.0 / units), size=min(_CHUNK, n_resamples - start))
        means[start : start + len(counts)] = counts @ sums / (counts @ sizes)[:, None]
    tail = (1.0 - confidence) / 2.0
    return np.asarray(np.quantile(means, [tail, 1.0 - tail], axis=0)).T


def studentised_bootstrap_interval(
    contributions: FloatArray,
    confidence: float = 0.95,
    groups: npt.ArrayLike | None = None,
    n_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the studentised (bootstrap-t) interval, which corrects for skewed contributions.

    Importance weights make contributions skewed; the bootstrap distribution of ``(mean* - mean) / se*``
    replaces Student's t. Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section
    12.5.
    """
    _check_confidence(confidence)
    m = moments(contributions, groups)
    if m.n_units < 2:
        return Interval(float("-inf"), float("inf"))
    if m.standard_error == 0.0:
        return Interval(m.mean, m.mean)
    means, errors = _resample(contributions, groups, n_resamples, seed)
    # A resample without spread says that its mean is off by an unknown amount: its statistic is +-infinity.
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(means == m.mean, 0.0, (means - m.mean) / errors)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(statistic, [tail, 1.0 - tail], method="inverted_cdf")
    return Interval(float(m.mean - high * m.standard_error), float(m.mean - low * m.standard_error))


def empirical_bernstein_interval(
    contributions: FloatArray,
    value_range: float,
    confidence: float = 0.95,
    groups: npt.ArrayLike | None = None,
) -> Interval:
    """Return the empirical Bernstein interval: holds at every n, no normality assumed, wide.

    ``mean +- sqrt(2 V ln(4 / d) / n) + 7 b ln(4 / d) / (3 (n - 1))`` with V the sample variance, b the range
    of one contribution and d = 1 - confidence. Source: Maurer and Pontil, "Empirical Bernstein Bounds and
    Sample Variance Penalization" (2009), theorem 4, once per side.

    Args:
        contributions: shape (n,), independent.
        value_range: b, the largest minus the smallest value that one contribution (one group's summed
            contribution over the mean group size) can take; not the observed range.
        confidence: of the two-sided interval.
        groups: labels of events that depend on one another.

    Raises:
        ValueError: ``value_range`` is smaller than the observed range, or not finite.
    """
    _check_confidence(confidence)
    x = _checked(contributions)
    if groups is not None:
        sums = _group_sums(x, groups)
        x = sums * sums.size / x.size
    observed = float(x.max() - x.min())
    if not (np.isfinite(value_range) and value_range >= observed * (1.0 - 1e-9)):
        raise ValueError(f"value_range is {value_range}: must be finite and at least the observed {observed}")
    if x.size < 2:
        return Interval(float("-inf"), float("inf"))
    log_term = np.log(4.0 / (1.0 - confidence))
    half = np.sqrt(2.0 * x.var(ddof=1) * log_term / x.size) + 7.0 * value_range * log_term / (
        3.0 * (x.size - 1)
    )
    return Interval(float(x.mean() - half), float(x.mean() + half))


def _resample(
    contributions: FloatArray, groups: npt.ArrayLike | None, n_resamples: int, seed: int
) -> tuple[Float64Array, Float64Array]:
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}: must be >= 1")
    x = _checked(contributions)
    sums = x if groups is None else _group_sums(x, groups)
    sizes = np.ones_like(x) if groups is None else _group_sums(np.ones_like(x), groups)
    rng = np.random.default_rng(seed)
    units = sums.size
    means, errors = np.empty(n_resamples), np.empty(n_resamples)
    for start in range(0, n_resamples, _CHUNK):
        stop = min(start + _CHUNK, n_resamples)
        pick = rng.integers(units, size=(stop - start, units))
        s, k = sums[pick], sizes[pick]
        events = k.sum(axis=1)
        means[start:stop] = s.sum(axis=1) / events
        deviations = s - means[start:stop, None] * k
        scale = units / max(units - 1, 1)
        errors[start:stop] = np.sqrt((deviations**2).sum(axis=1) * scale) / events
    return means, errors


def _group_sums(values: Float64Array, groups: npt.ArrayLike) -> Float64Array:
    labels = np.asarray(groups)
    if labels.shape != values.shape:
        raise ValueError(f"groups has shape {labels.shape}: expected {values.shape}, one label per event")
    _, codes = np.unique(labels, return_inverse=True)
    return np.bincount(codes, weights=values).astype(np.float64)


def _checked(contributions: FloatArray) -> Float64Array:
    x = np.asarray(contributions, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"contributions has shape {x.shape}: expected (n,), n >= 1, all finite")
    return x


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}: must lie inside (0, 1)")
