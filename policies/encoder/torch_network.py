"""The network in PyTorch, through sentence-transformers: on CPU, on GPU, as the reference, and for conversion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from policies.encoder.forward import Forward
from policies.encoder.source import EncoderSource
from policies.errors import InputError

if TYPE_CHECKING:
    import torch

INPUTS = ("input_ids", "attention_mask")
"""Names of a converted graph's inputs, both (b, longest) int64."""


def sentence_transformer(source: EncoderSource) -> Any:
    """Return the model on the CPU in float32, for inference.

    Raises:
        InputError: sentence-transformers cannot load the folder.
    """
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        return SentenceTransformer(str(source.folder), device="cpu", local_files_only=True).eval()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"encoder.model={source.name}: {source.folder} cannot be loaded: {reason}") from None


def reference_vectors(
    source: EncoderSource, texts: Sequence[str], max_tokens: int
) -> npt.NDArray[np.float32]:
    """Return what plain sentence-transformers makes of ``texts`` in float32, shape (n, d), rows normalised."""
    model = sentence_transformer(source)
    model.max_seq_length = max_tokens
    vectors = model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cpu_forward(source: EncoderSource, threads: int, *, bfloat16: bool) -> Forward:
    """Return the forward pass on the CPU; sets PyTorch's threads for the whole process."""
    import torch

    torch.set_num_threads(threads)
    model = sentence_transformer(source)
    return _forward(model.to(torch.bfloat16) if bfloat16 else model, "cpu")


def cuda_forward(source: EncoderSource) -> Forward:
    """Return the forward pass on the current GPU in float16; the process must see one."""
    return _forward(sentence_transformer(source).half().to("cuda"), "cuda")


def _forward(model: Any, device: str) -> Forward:
    import torch

    def forward(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            features = {name: torch.from_numpy(array).to(device) for name, array in zip(INPUTS, (ids, mask))}
            return model(features)["sentence_embedding"].float().cpu().numpy()

    return forward


def network_for_conversion(source: EncoderSource) -> tuple[Any, tuple[torch.Tensor, torch.Tensor]]:
    """Return the network as a module of the two :data:`INPUTS`, and example inputs to trace it with.

    Its output is the sentence vectors (b, d) float32, whatever pooling and normalisation the model has.
    """
    import torch

    class Network(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            features = dict(zip(INPUTS, (input_ids, attention_mask)))
            return self.model(features)["sentence_embedding"]

    ids = torch.ones(2, 8, dtype=torch.int64)
    mask = torch.ones(2, 8, dtype=torch.int64)
    # A row with padding, lest the tracer see an all-ones mask and drop it.
    mask[0, 5:] = 0
    return Network(sentence_transformer(source)).eval(), (ids, mask)
