"""The one interface behind which every router stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]


class Judgement(NamedTuple):
    """What a policy holds of every model for one prompt, whichever of them are eligible.

    Attributes:
        values: shape (K,), expected reward of calling each; without ``probabilities`` the policy calls the eligible
            model with the largest.
        scores: shape (K,), expected score in [0, 1].
        costs_usd: shape (K,), expected USD of the call, not capped; None when it predicts none in USD.
        probabilities: from a mask of eligible models, shape (K,), to the row of :meth:`Policy.action_probabilities`;
            None where that is greedy in ``values``. A policy over sets of candidates decides only once it knows them.
        logit_std: shape (K,), posterior deviation of the logit of each expected score; None without a posterior.
    """

    values: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    costs_usd: npt.NDArray[np.float64] | None
    probabilities: Callable[[BoolArray], npt.NDArray[np.float64]] | None = None
    logit_std: npt.NDArray[np.float64] | None = None


class Policy(ABC):
    """A distribution over a fixed, ordered list of models given a prompt and a preference.

    Constants, kNN, LinUCB, BaRP and the oracle all implement :meth:`action_probabilities`; propensities,
    off-policy evaluation, reports, batch routing and serving are written against it and :meth:`over_dial`, which is
    the same for many preferences at once.
    """

    kind: ClassVar[str]
    """Name of the policy class in the registry of :mod:`policies.registry` and in saved artifacts."""

    models: tuple[str, ...]
    """The models in the order of the columns of every probability matrix."""

    @abstractmethod
    def action_probabilities(
        self,
        embeddings: FloatArray,
        preferences: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> npt.NDArray[np.float64]:
        """Return the probability with which each model is called, shape (n, n_models).

        Args:
            embeddings: shape (n, d), the frozen encoder's vectors.
            preferences: shape (n, 2), columns (w_quality, w_cost), each row on the simplex.
            eligible: shape (n, n_models), True where a model may be called; None means all.
            prompt_tokens: shape (n,), length of each prompt; policies that price a query by its length use
                it and fall back to the training mean when it is None, the others ignore it.

        Returns:
            Rows sum to one over eligible models; ineligible models have probability exactly 0.

        Raises:
            ValueError: shapes disagree, or a row has no eligible model.
        """

    def over_dial(
        self,
        embeddings: FloatArray,
        dial: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> Iterator[npt.NDArray[np.float64]]:
        """Yield :meth:`action_probabilities` of the same prompts at each preference, shape (n, n_models) each.

        What does not hang on the preference, a kind may compute once.

        Args:
            embeddings: shape (n, d).
            dial: shape (m, 2), preferences.
            eligible: shape (n, n_models); None means all.
            prompt_tokens: shape (n,).

        Raises:
            ValueError: see :meth:`action_probabilities`.
        """
        n = len(embeddings)
        for preference in self.checked_dial(dial):
            yield self.action_probabilities(
                embeddings, np.broadcast_to(preference, (n, 2)), eligible, prompt_tokens=prompt_tokens
            )

    def judge(
        self, embedding: FloatArray, preference: tuple[float, float], prompt_tokens: float
    ) -> Judgement | None:
        """Return what the policy holds of every model for one prompt; None when it only has probabilities.

        Args:
            embedding: shape (d,).
            preference: (w_quality, w_cost) on the simplex.
            prompt_tokens: the prompt's length.
        """
        return None

    def save(self, directory: Path) -> None:
        """Write what :meth:`load` needs into an existing, empty directory (no pickles)."""
        raise NotImplementedError(f"policy kind '{self.kind}' cannot be saved")

    @classmethod
    def load(cls, directory: Path, models: tuple[str, ...]) -> Self:
        """Read a policy written by :meth:`save`."""
        raise NotImplementedError(f"policy kind '{cls.kind}' cannot be loaded")

    def checked_eligible(self, n: int, eligible: BoolArray | None) -> BoolArray:
        """Return the eligible mask, shape (n, n_models), all True when None is given.

        Raises:
            ValueError: wrong shape, or a row without an eligible model.
        """
        shape = (n, len(self.models))
        if eligible is None:
            return np.ones(shape, dtype=bool)
        if eligible.shape != shape:
            raise ValueError(f"eligible has shape {eligible.shape}, expected {shape}")
        empty = ~eligible.any(axis=1)
        if empty.any():
            raise ValueError(f"row {int(np.flatnonzero(empty)[0])} has no eligible model")
        return eligible

    def checked_preferences(
        self, embeddings: FloatArray, preferences: FloatArray, embedding_dim: int | None = None
    ) -> npt.NDArray[np.float64]:
        """Return the preferences as float64, shape (n, 2), one row for each of the n embeddings.

        Args:
            embeddings: shape (n, d).
            preferences: shape (n, 2).
            embedding_dim: the d that the policy was trained for; None leaves it to the caller.

        Raises:
            ValueError: wrong shape of either.
        """
        n = len(embeddings)
        if embedding_dim is not None and embeddings.shape != (n, embedding_dim):
            raise ValueError(f"embeddings have shape {embeddings.shape}, expected (n, {embedding_dim})")
        if preferences.shape != (n, 2):
            raise ValueError(f"preferences have shape {preferences.shape}, expected ({n}, 2)")
        return np.asarray(preferences, dtype=np.float64)

    def checked_dial(self, dial: FloatArray) -> npt.NDArray[np.float64]:
        """Return the preferences of a dial as float64, shape (m, 2).

        Raises:
            ValueError: another shape, such as that of a grid of w_cost alone.
        """
        if np.ndim(dial) != 2 or np.shape(dial)[1] != 2:
            raise ValueError(
                f"the dial has shape {np.shape(dial)}, expected (m, 2): w_quality and w_cost of each setting"
            )
        return np.asarray(dial, dtype=np.float64)


def masked_softmax(logits: FloatArray, eligible: BoolArray) -> npt.NDArray[np.float64]:
    """Return the softmax over eligible columns, exactly 0 elsewhere. Shapes (n, K)."""
    masked = np.where(eligible, np.asarray(logits, dtype=np.float64), -np.inf)
    exp = np.exp(masked - masked.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def greedy(probabilities: FloatArray) -> npt.NDArray[np.float64]:
    """Return the one-hot of each row's most probable model (the first of equals), shape (n, K)."""
    one_hot = np.zeros(probabilities.shape, dtype=np.float64)
    one_hot[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = 1.0
    return one_hot
