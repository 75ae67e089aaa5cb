"""What the outcome model sees of a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

EMBEDDING_SCALE = 0.35
"""Standard deviation given to the projected embedding as a whole: small inputs make a smooth function."""

LENGTH_LIMIT = 4.0
"""Standard deviations of log length beyond which a prompt counts as that long: networks do not extrapolate."""


@dataclass(frozen=True)
class ContextFeatures:
    """Leading principal components of the embedding, not whitened, and the logarithm of the prompt's length.

    Whitening would raise the noise of minor components to the level of the topic; raw vectors have six times
    the inputs for the same information.

    Attributes:
        mean: shape (d,).
        basis: shape (d, p), scaled.
        log_tokens_mean: mean of log prompt tokens in training.
        log_tokens_std: their standard deviation; 0 where all prompts were of one length.
        token_scale: standard deviation that the length has among the inputs.
    """

    mean: npt.NDArray[np.float32]
    basis: npt.NDArray[np.float32]
    log_tokens_mean: float
    log_tokens_std: float
    token_scale: float

    @classmethod
    def fit(
        cls, embeddings: FloatArray, prompt_tokens: FloatArray, components: int, token_scale: float
    ) -> Self:
        """Fit to training prompts, shapes (n, d) and (n,)."""
        x = np.asarray(embeddings, dtype=np.float64)
        mean = x.mean(axis=0)
        centred = x - mean
        variances, directions = np.linalg.eigh(centred.T @ centred)
        basis = directions[:, ::-1][:, : min(components, int((variances > 0).sum()) or 1)]
        # Signs of eigenvectors are arbitrary; fixing them makes artifacts repeatable across machines.
        basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])])
        spread = float((centred @ basis).std()) or 1.0
        logs = np.log(np.maximum(prompt_tokens, 1.0))
        return cls(
            mean=mean.astype(np.float32),
            basis=(basis * (EMBEDDING_SCALE / spread)).astype(np.float32),
            log_tokens_mean=float(logs.mean()),
            log_tokens_std=float(logs.std()) if np.ptp(logs) > 0 else 0.0,
            token_scale=token_scale,
        )

    @property
    def mean_tokens(self) -> float:
        """Geometric mean of the training prompts' tokens: stands in where a length is unknown."""
        return float(np.exp(self.log_tokens_mean))

    def project(self, embeddings: FloatArray) -> npt.NDArray[np.float32]:
        """Return the inputs that the embedding alone decides, shape (n, p)."""
        return ((embeddings - self.mean) @ self.basis).astype(np.float32)

    def transform(self, embeddings: FloatArray, prompt_tokens: FloatArray) -> npt.NDArray[np.float32]:
        """Return inputs, shape (n, p + 1)."""
        projected = self.project(embeddings)
        lengths = np.zeros(len(embeddings))
        if self.log_tokens_std > 0:
            lengths = (np.log(np.maximum(prompt_tokens, 1.0)) - self.log_tokens_mean) / self.log_tokens_std
        lengths = self.token_scale * np.clip(lengths, -LENGTH_LIMIT, LENGTH_LIMIT)
        return np.concatenate([projected, lengths[:, None]], axis=1).astype(np.float32)
