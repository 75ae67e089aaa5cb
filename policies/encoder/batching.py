"""Token batches: texts of like length together, so that little of a forward pass is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

IntArray = npt.NDArray[np.int64]


def plan_batches(lengths: IntArray, batch_tokens: int) -> list[IntArray]:
    """Return row indices per batch: every row once, shortest first.

    A batch of b rows padded to its longest row of L tokens satisfies ``b * L <= batch_tokens``; a row that is
    longer than the budget is a batch of its own.
    """
    order = np.argsort(lengths, kind="stable")
    batches: list[IntArray] = []
    start = 0
    for stop in range(1, len(order) + 1):
        full = stop == len(order) or (stop + 1 - start) * lengths[order[stop]] > batch_tokens
        if full:
            batches.append(order[start:stop])
            start = stop
    return batches


class TokenBatcher:
    """Tokenises with the model's own tokenizer, cut to ``max_tokens``, special tokens included."""

    def __init__(
        self, tokenizer_file: Path, *, max_tokens: int, batch_tokens: int, pad_token_id: int
    ) -> None:
        self.batch_tokens = batch_tokens
        self.pad_token_id = pad_token_id
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    def batches(self, texts: Sequence[str]) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
        """Yield (rows, token ids, attention mask) of each batch; the latter two have shape (b, longest)."""
        encoded = [e.ids for e in self._tokenizer.encode_batch_fast(list(texts))]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        for rows in plan_batches(lengths, self.batch_tokens):
            longest = int(lengths[rows].max())
            ids = np.full((len(rows), longest), self.pad_token_id, dtype=np.int64)
            for at, row in enumerate(rows):
                ids[at, : lengths[row]] = encoded[row]
            mask = (np.arange(longest)[None, :] < lengths[rows][:, None]).astype(np.int64)
            yield rows, ids, mask
