"""The expected normalised cost of a call whose answer's length is uncertain."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr

FloatArray = npt.NDArray[np.floating]


def expected_cost_term(
    log_output_cost: FloatArray, sigma: FloatArray, prompt_cost_usd: FloatArray, tau_usd: float
) -> npt.NDArray[np.float64]:
    """Return ``E[min((a + X) / tau, 1)]`` for ``X ~ LogNormal(m, sigma^2)``, in closed form.

    With ``a`` the prompt's cost, ``t = log(tau - a)`` and ``p = P(X < tau - a)``, this is
    ``p a / tau + E[X; X < tau - a] / tau + (1 - p)``, the partial expectation of a lognormal. The expectation is
    taken inside the cap, because the cost of a long answer beyond tau no longer counts.

    Args:
        log_output_cost: m, shape (n, K), natural logarithm of USD.
        sigma: shape (K,), positive.
        prompt_cost_usd: a, shape (n, K), USD.
        tau_usd: cost scale, USD.
    """
    m = np.asarray(log_output_cost, dtype=np.float64)
    share = np.asarray(prompt_cost_usd, dtype=np.float64) / tau_usd
    room = np.log(np.maximum(1.0 - share, 1e-12) * tau_usd)
    below = ndtr((room - m) / sigma)
    # In logarithms, because a huge mean times a vanishing probability would be inf times 0.
    partial = np.exp(m + 0.5 * sigma**2 - np.log(tau_usd) + log_ndtr((room - m - sigma**2) / sigma))
    return np.where(share >= 1.0, 1.0, share * below + partial + 1.0 - below)
