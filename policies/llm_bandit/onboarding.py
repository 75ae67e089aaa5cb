"""Cold start: which prompts to ask a new model, and its identity vector from the answers.

LLM Bandit (arXiv 2502.02743), cold start: discrimination scores, stratified sampling, a fit with the network frozen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_expit

from policies.errors import InputError
from policies.llm_bandit.arms import FEW_COSTS, measured_arms
from policies.llm_bandit.identity_vectors import Arms, Loadings, ScoringNetwork
from policies.llm_bandit.item_effects import ItemEffects
from policies.llm_bandit.observations import Observations, log_output_costs
from policies.pool import ModelSpec

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MAX_NEWTON_STEPS = 50
STRATA = 10
"""Parts of equal size, from easy to hard, into which prompts are cut."""
COST_PRIOR_CALLS = 3.0
"""A new model's mean log cost starts from the pool's answer length at its own price, worth so many calls."""


def discrimination(scores: Float64Array) -> Float64Array:
    """Return how differently the known models fare on each prompt, shape (n,): the variance of predicted scores.

    The paper leaves the form open ("prediction uncertainty across the known models"). A prompt that every model
    solves, or none, says nothing of a new one, whatever the uncertainty of each prediction by itself.

    Args:
        scores: shape (n, K), predicted and calibrated.
    """
    return np.asarray(scores, dtype=np.float64).var(axis=1)


def stratified_selection(
    scores: Float64Array, n_prompts: int, rng: np.random.Generator, *, strata: int = STRATA
) -> IntArray:
    """Return rows to ask a new model, shape (n_prompts,), spread from easy to hard prompts.

    Rows are cut into strata of equal size by mean predicted score, from easy to hard; within each, rows are drawn
    without replacement with probabilities in proportion to their discrimination.

    Args:
        scores: shape (n, K), predicted and calibrated scores of the known models.
        n_prompts: rows to choose.
        rng: source of the draws.
        strata: number of strata, at most ``n_prompts``.

    Raises:
        InputError: fewer rows than ``n_prompts``.
    """
    n = len(scores)
    if not 1 <= n_prompts <= n:
        raise InputError(f"{n_prompts} prompts are to be chosen from {n}; allowed: 1 to {n}")
    weight = discrimination(scores) + 1e-9
    order = np.argsort(-np.asarray(scores).mean(axis=1), kind="stable")
    parts = np.array_split(order, min(strata, n_prompts))
    quotas = np.full(len(parts), n_prompts // len(parts))
    quotas[rng.permutation(len(parts))[: n_prompts % len(parts)]] += 1
    chosen: list[IntArray] = []
    for part, quota in zip(parts, np.minimum(quotas, [len(p) for p in parts]), strict=True):
        chosen.append(rng.choice(part, quota, replace=False, p=weight[part] / weight[part].sum()))
    rows = np.concatenate(chosen)
    short = n_prompts - len(rows)
    if short:
        rest = np.setdiff1d(np.arange(n), rows)
        rows = np.concatenate([rows, rng.choice(rest, short, replace=False)])
    return rows.astype(np.int64)


@dataclass(frozen=True)
class _Evidence:
    """A Gaussian prior and what one model's answers say: all that the posterior mode depends on.

    Attributes:
        loading: shape (n, m), of the score logit; offset (n,), both scaled by the calibration.
        score: shape (n,), observed.
        length_loading: shape (j, m); length (j,), standardised log costs less their offset.
        length_weight: precision of a length.
        prior_mean: shape (m,); prior_precision (m, m).
    """

    loading: Float64Array
    offset: Float64Array
    score: Float64Array
    length_loading: Float64Array
    length: Float64Array
    length_weight: float
    prior_mean: Float64Array
    prior_precision: Float64Array

    def log_posterior(self, vector: Float64Array) -> float:
        z = self.loading @ vector + self.offset
        fit = (self.score * log_expit(z) + (1.0 - self.score) * log_expit(-z)).sum()
        error = self.length - self.length_loading @ vector
        gap = vector - self.prior_mean
        return float(
            fit - 0.5 * self.length_weight * (error @ error) - 0.5 * gap @ self.prior_precision @ gap
        )

    def gradient_and_precision(self, vector: Float64Array) -> tuple[Float64Array, Float64Array]:
        p = expit(self.loading @ vector + self.offset)
        error = self.length - self.length_loading @ vector
        gradient = (
            self.loading.T @ (self.score - p)
            + self.length_weight * self.length_loading.T @ error
            - self.prior_precision @ (vector - self.prior_mean)
        )
        precision = (
            self.prior_precision
            + (self.loading * (p * (1.0 - p))[:, None]).T @ self.loading
            + self.length_weight * self.length_loading.T @ self.length_loading
        )
        return gradient, precision


@dataclass(frozen=True)
class VectorPrior:
    """Where new vectors are expected before any answer.

    Attributes:
        mean: shape (m,).
        covariance: shape (m, m), positive definite.
    """

    mean: Float64Array
    covariance: Float64Array

    @classmethod
    def of(cls, arms: Arms, *, prior_models: float = 5.0) -> VectorPrior:
        """Return mean and covariance of the known vectors, shrunk towards an even spread.

        Models resemble each other: the directions in which known ones differ are those to be learned first.

        Args:
            arms: known models.
            prior_models: weight of the even spread, in models.
        """
        identity = arms.identity.astype(np.float64)
        mean = identity.mean(axis=0)
        centred = identity - mean
        even = (centred**2).mean() + 1e-3
        k, m = identity.shape
        total = centred.T @ centred + prior_models * even * np.eye(m)
        return cls(mean, total / (k + prior_models))


def fit_new_arm(
    network: ScoringNetwork,
    arms: Arms,
    observations: Observations,
    spec: ModelSpec,
    output_price_per_token_usd: Float64Array,
    *,
    prior: VectorPrior | None = None,
    effects: ItemEffects | None = None,
    length_weight: float = 0.3,
) -> Arms:
    """Return the new model's row: posterior mode and deviations of its vector with the network frozen.

    The posterior is concave, so the mode is the only one and Newton's method finds it in a few steps; deviations
    follow from the Laplace approximation. A free model's costs (price 0) start from the known models' mean.

    Args:
        network: frozen and calibrated.
        arms: the known models.
        observations: the new model's answers, one column, NaN where an answer is missing.
        spec: name and prices of the new model.
        output_price_per_token_usd: shape (K,), of the known models.
        prior: of the vector; None takes that of the known models, :meth:`VectorPrior.of`.
        effects: of the asked prompts, where the known models' answers to them are recorded; None takes the network's
            word on how hard each is. They are worth about half as many prompts again.
        length_weight: weight of an answer's length beside a score, as in training.

    Raises:
        InputError: the model is known already, or no answer has a score.
    """
    if spec.name in arms.models:
        raise InputError(f"model '{spec.name}' is in the pool already; allowed: a new name")
    score = observations.scores[:, 0]
    if not np.isfinite(score).any():
        raise InputError(f"none of the {len(observations)} answers of model '{spec.name}' has a score")
    chosen = prior or VectorPrior.of(arms)
    input_price = np.array([spec.input_price_per_mtok_usd / 1e6])
    loadings = network.loadings(network.inputs(observations.embeddings, observations.prompt_tokens))
    log_cost = log_output_costs(observations, input_price, network.tau_usd)
    expected = _expected_log_cost(arms, spec, output_price_per_token_usd)
    seen = np.isfinite(log_cost[:, 0])
    mean = (log_cost[seen, 0].sum() + COST_PRIOR_CALLS * expected) / (seen.sum() + COST_PRIOR_CALLS)
    known = effects or ItemEffects.none(len(observations))
    evidence = _evidence(
        network, loadings, known, score, (log_cost[:, 0] - mean) / network.length_std, chosen, length_weight
    )
    vector, std = _mode(evidence)
    return measured_arms(
        network,
        (spec.name,),
        vector[None].astype(np.float32),
        std[None].astype(np.float32),
        observations,
        log_cost,
        np.array([mean]),
        input_price,
        default_sigma=float(np.median(arms.sigma)) if seen.sum() < FEW_COSTS else None,
    )


def _expected_log_cost(arms: Arms, spec: ModelSpec, prices: Float64Array) -> float:
    """Return the log cost of an answer of the known models' typical length at the new model's prices."""
    priced, price, call_usd = prices > 0.0, spec.output_price_per_mtok_usd / 1e6, spec.price_per_call_usd
    if price <= 0.0 and call_usd > 0.0:
        return float(np.log(call_usd))
    if price <= 0.0 or not priced.any():
        return float(arms.log_cost_mean.mean())
    answer_usd = price * np.exp((arms.log_cost_mean[priced] - np.log(prices[priced])).mean())
    return float(np.log(call_usd + answer_usd))


def _evidence(
    network: ScoringNetwork,
    loadings: Loadings,
    effects: ItemEffects,
    score: Float64Array,
    length: Float64Array,
    prior: VectorPrior,
    length_weight: float,
) -> _Evidence:
    slope, intercept = network.platt
    answered, measured = np.isfinite(score), np.isfinite(length)
    scale = effects.scale[answered]
    centre = slope * loadings.score_offset[answered].astype(np.float64) + intercept
    return _Evidence(
        loading=(slope * scale)[:, None] * loadings.score[answered].astype(np.float64),
        offset=scale * centre + effects.shift[answered],
        score=score[answered],
        length_loading=loadings.length[measured].astype(np.float64),
        length=length[measured] - loadings.length_offset[measured],
        # A squared error weighed w beside a cross-entropy is a Gaussian of precision 2 w.
        length_weight=2.0 * length_weight,
        prior_mean=prior.mean,
        prior_precision=np.linalg.inv(prior.covariance).astype(np.float64),
    )


def _mode(evidence: _Evidence) -> tuple[Float64Array, Float64Array]:
    """Return posterior mode and deviations, both of shape (m,).

    The deviations are those of the factorised normal in which the known vectors are learned too, ``1 / precision_ii``,
    scaled so that logits of the answered prompts are as uncertain as under the whole Laplace covariance. Its diagonal
    alone would hardly narrow: answers tie the coordinates to each other long before they settle each of them.
    """
    vector = evidence.prior_mean.copy()
    value = evidence.log_posterior(vector)
    for _ in range(MAX_NEWTON_STEPS):
        gradient, precision = evidence.gradient_and_precision(vector)
        step = np.linalg.solve(precision, gradient)
        size = 1.0
        while evidence.log_posterior(vector + size * step) < value and size > 1e-6:
            size *= 0.5
        vector = vector + size * step
        value = evidence.log_posterior(vector)
        if np.abs(step).max() < 1e-8:
            break
    _, precision = evidence.gradient_and_precision(vector)
    loading, factorised = evidence.loading, 1.0 / np.diag(precision)
    exact = (loading @ np.linalg.inv(precision) * loading).sum()
    approximate = (loading**2 @ factorised).sum()
    return vector, np.sqrt(factorised * (exact / approximate if approximate > 0.0 else 1.0))
