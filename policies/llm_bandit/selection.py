"""Which prompts a new model is asked: strategies by name, all choosing from the same description of the prompts.

LLM Bandit (arXiv 2502.02743), cold start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from policies.errors import InputError
from policies.llm_bandit.identity_vectors import Arms, ScoringNetwork, logits
from policies.llm_bandit.onboarding import VectorPrior, stratified_selection

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AskablePrompts:
    """What a strategy may know of the n prompts that a new model can be asked: nothing of the new model's answers.

    Attributes:
        scores: shape (n, K), predicted and calibrated scores of the known models.
        loading: shape (n, m), what each prompt asks of a model's vector, scaled by the calibration.
        offset: shape (n,), the calibrated logit of the vector 0.
        prior: of the new model's vector.
    """

    scores: Float64Array
    loading: Float64Array
    offset: Float64Array
    prior: VectorPrior

    @classmethod
    def of(
        cls,
        network: ScoringNetwork,
        arms: Arms,
        embeddings: npt.NDArray[np.float32],
        prompt_tokens: Float64Array,
        prior: VectorPrior | None = None,
    ) -> AskablePrompts:
        """Describe prompts by a frozen network; the prior is that of the known vectors unless given.

        Args:
            network: frozen and calibrated.
            arms: the known models.
            embeddings: shape (n, d).
            prompt_tokens: shape (n,).
            prior: of the new vector; None takes :meth:`VectorPrior.of`.
        """
        slope, intercept = network.platt
        loadings = network.loadings(network.inputs(embeddings, prompt_tokens))
        return cls(
            expit(slope * logits(loadings, arms) + intercept),
            slope * loadings.score.astype(np.float64),
            slope * loadings.score_offset.astype(np.float64) + intercept,
            prior or VectorPrior.of(arms),
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


SELECTIONS: dict[str, Selection] = {"stratified": _stratified, "random": _random}
"""Strategies by name."""
