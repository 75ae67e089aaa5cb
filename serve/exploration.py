"""Exploration whose every propensity is exact: one distribution, one draw."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serve.settings.decision import ExplorationSettings

FloatArray = npt.NDArray[np.float64]


def explored(
    base: FloatArray,
    values: FloatArray,
    eligible: npt.NDArray[np.bool_],
    settings: ExplorationSettings,
    worth: FloatArray | None = None,
) -> FloatArray:
    """Return the distribution that the endpoint draws from, shape (K,).

    With ``p`` the exploring share of requests and ``e`` what those draw from, a request is answered from
    ``(1 - p) base + p e``: the coin is part of the distribution, so that the propensity of a model is the same
    whichever side it fell on. Of newcomers, ``e`` is their ``worth``, scaled to sum to one, and ``p`` is its sum or
    ``newcomer_percent``, whichever is less. A floor f then mixes in the uniform u over the m eligible models,
    ``(1 - m f) q + m f u``, which gives each at least f.

    Args:
        base: shape (K,), what would be drawn from without exploration; 0 for ineligible models.
        values: shape (K,), what the policy ranks models by, in units of the reward.
        eligible: shape (K,), at least one True.
        settings: what to do.
        worth: shape (K,), of :func:`policies.newcomers.exploration_worth`; None when the policy has no posterior.
    """
    if settings.kind == "none":
        return base
    if settings.kind == "newcomers":
        mixed = base if worth is None else _with_newcomers(base, worth, settings.newcomer_percent / 100.0)
    else:
        share = settings.traffic_percent / 100.0
        mixed = (1.0 - share) * base + share * _exploring(base, values, eligible, settings)
    if settings.propensity_floor == 0.0:
        return mixed
    weight = min(settings.propensity_floor * float(eligible.sum()), 1.0)
    return (1.0 - weight) * mixed + weight * (eligible / eligible.sum())


def _exploring(
    base: FloatArray, values: FloatArray, eligible: npt.NDArray[np.bool_], settings: ExplorationSettings
) -> FloatArray:
    if settings.kind == "epsilon":
        return (1.0 - settings.epsilon) * base + settings.epsilon * (eligible / eligible.sum())
    return _softmax(values, eligible, settings.temperature)


def _with_newcomers(base: FloatArray, worth: FloatArray, most: float) -> FloatArray:
    total = float(worth.sum())
    if total <= 0.0 or most <= 0.0:
        return base
    share = min(total, most)
    return (1.0 - share) * base + (share / total) * worth


def draw(probabilities: FloatArray, rng: np.random.Generator) -> int:
    """Return a column drawn from a distribution, shape (K,); one of probability 0 never comes."""
    cumulative = probabilities.cumsum()
    # "right" skips columns of probability 0, whose cumulative value equals their predecessor's.
    index = int(cumulative.searchsorted(rng.random() * cumulative[-1], "right"))
    if index < len(probabilities):
        return index
    return int(np.flatnonzero(probabilities)[-1])  # the product was rounded up to the sum itself


def _softmax(values: FloatArray, eligible: npt.NDArray[np.bool_], temperature: float) -> FloatArray:
    scaled = np.where(eligible, values / temperature, -np.inf)
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()
