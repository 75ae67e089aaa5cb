"""Which prompts a new model is asked: strategies by name, all choosing from the same description of the prompts.

LLM Bandit (arXiv 2502.02743), cold start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from policies.errors import InputError
from policies.llm_bandit.identity_vectors import Arms, ScoringNetwork, logits
from policies.llm_bandit.item_effects import ItemEffects
from policies.llm_bandit.observations import Observations
from policies.llm_bandit.onboarding import STRATA, VectorPrior, stratified_selection

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SHORTLIST = 500
"""Prompts that a greedy choice looks at: drawn afresh, they keep it from the table's few most extreme loadings."""


@dataclass(frozen=True)
class AskablePrompts:
    """What a strategy may know of the n prompts that a new model can be asked: nothing of the new model's answers.

    Attributes:
        scores: shape (n, K), predicted and calibrated scores of the known models.
        loading: shape (n, m), what each prompt asks of a model's vector, scaled by the calibration.
        offset: shape (n,), the calibrated logit of the vector 0.
        prior: of the new model's vector.
        effects: what the known models' own answers say of each prompt; none unless given.
    """

    scores: Float64Array
    loading: Float64Array
    offset: Float64Array
    prior: VectorPrior
    effects: ItemEffects = field(default_factory=lambda: ItemEffects.none(1))

    @classmethod
    def of(
        cls,
        network: ScoringNetwork,
        arms: Arms,
        embeddings: npt.NDArray[np.float32],
        prompt_tokens: Float64Array,
        prior: VectorPrior | None = None,
        answers: Observations | None = None,
    ) -> AskablePrompts:
        """Describe prompts by a frozen network; the prior is that of the known vectors unless given.

        Args:
            network: frozen and calibrated.
            arms: the known models.
            embeddings: shape (n, d).
            prompt_tokens: shape (n,).
            prior: of the new vector; None takes :meth:`VectorPrior.of`.
            answers: recorded outcomes of the known models on these prompts, in the order of ``arms``, where there are.
        """
        slope, intercept = network.platt
        loadings = network.loadings(network.inputs(embeddings, prompt_tokens))
        return cls(
            expit(slope * logits(loadings, arms) + intercept),
            slope * loadings.score.astype(np.float64),
            slope * loadings.score_offset.astype(np.float64) + intercept,
            prior or VectorPrior.of(arms),
            ItemEffects.none(len(embeddings)) if answers is None else ItemEffects.of(network, arms, answers),
        )

    def __len__(self) -> int:
        return len(self.scores)


Selection = Callable[[AskablePrompts, int, np.random.Generator], IntArray]
"""``(prompts, n_prompts, rng) -> rows``, shape (n_prompts,), distinct."""


def select(name: str, prompts: AskablePrompts, n_prompts: int, rng: np.random.Generator) -> IntArray:
    """Return distinct rows to ask a new model, shape (n_prompts,), by the strategy of that name.

    Raises:
        InputError: no such strategy, or fewer prompts than ``n_prompts``.
    """
    if name not in SELECTIONS:
        raise InputError(f"selection '{name}' is not known; allowed: {', '.join(SELECTIONS)}")
    if not 1 <= n_prompts <= len(prompts):
        raise InputError(
            f"{n_prompts} prompts are to be chosen from {len(prompts)}; allowed: 1 to {len(prompts)}"
        )
    return SELECTIONS[name](prompts, n_prompts, rng)


def _stratified(prompts: AskablePrompts, n_prompts: int, rng: np.random.Generator) -> IntArray:
    return stratified_selection(prompts.scores, n_prompts, rng)


def _random(prompts: AskablePrompts, n_prompts: int, rng: np.random.Generator) -> IntArray:
    """Return rows drawn uniformly without replacement."""
    return rng.choice(len(prompts), n_prompts, replace=False).astype(np.int64)


def _informative(prompts: AskablePrompts, n_prompts: int, rng: np.random.Generator) -> IntArray:
    """Return rows that leave the least doubt about the new model's scores over all prompts, from easy to hard.

    Greedy V-optimal design: each row taken is the one that most lowers the expected variance of the predicted score,
    averaged over all n prompts, under the Gaussian posterior of the vector (Laplace, at the known models' mean Fisher
    information). Where the known models' answers are recorded, a prompt that nearly all solve or fail informs little.
    As in :func:`stratified_selection` every stratum of mean predicted score gives its share, which keeps a sample that
    the network misjudges in some region from being all there.
    """
    n = len(prompts)
    covariance, moment = prompts.prior.covariance.copy(), _target_moment(prompts)
    shortlist = rng.choice(n, min(n, max(SHORTLIST, 5 * n_prompts)), replace=False)
    scale, shift = (np.broadcast_to(v, n)[shortlist] for v in (prompts.effects.scale, prompts.effects.shift))
    loading = scale[:, None] * prompts.loading[shortlist]
    mean = prompts.scores[shortlist].mean(axis=1)
    logit = scale * np.log(np.clip(mean, 1e-6, 1 - 1e-6) / np.clip(1.0 - mean, 1e-6, 1 - 1e-6)) + shift
    information = expit(logit) * expit(-logit)
    stratum, quota = _strata(prompts.scores.mean(axis=1)[shortlist], n_prompts, rng)
    free = np.ones(len(shortlist), dtype=bool)
    chosen = []
    for _ in range(n_prompts):
        spread = loading @ covariance
        gain = information * np.einsum("nm,nm->n", spread @ moment, spread)
        gain /= 1.0 + information * np.einsum("nm,nm->n", spread, loading)
        gain[~free | (quota[stratum] == 0)] = -1.0
        best = int(gain.argmax())
        chosen.append(best)
        free[best] = False
        quota[stratum[best]] -= 1
        along = spread[best]
        covariance -= (
            information[best] * np.outer(along, along) / (1.0 + information[best] * along @ loading[best])
        )
    return shortlist[chosen].astype(np.int64)


def _target_moment(prompts: AskablePrompts) -> Float64Array:
    """Return M, shape (m, m): ``trace(M Sigma)`` is the mean variance of the predicted scores under ``Sigma``."""
    slope = (prompts.scores * (1.0 - prompts.scores)).mean(axis=1)
    weighted = prompts.loading * slope[:, None]
    return np.asarray(weighted.T @ weighted / len(weighted))


def _strata(ease: Float64Array, n_prompts: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Return each row's stratum, and how many rows each stratum gives."""
    parts = np.array_split(np.argsort(-ease, kind="stable"), min(STRATA, n_prompts))
    stratum = np.empty(len(ease), dtype=np.int64)
    for number, part in enumerate(parts):
        stratum[part] = number
    quota = np.full(len(parts), n_prompts // len(parts))
    roomy = np.flatnonzero([len(part) > n_prompts // len(parts) for part in parts])
    quota[rng.permutation(roomy)[: n_prompts % len(parts)]] += 1
    return stratum, quota


SELECTIONS: dict[str, Selection] = {
    "stratified": _stratified,
    "random": _random,
    "informative": _informative,
}
"""Strategies by name: the paper's, uniform draws, and ours."""
