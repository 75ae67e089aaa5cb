"""What every backend offers: one forward pass of a batch of tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Forward = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""(token ids, attention mask), both (b, longest) -> sentence vectors (b, d), float32."""
