"""From texts to unit vectors, with the identity that keeps vectors of two encoders apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from policies.bundle import EncoderIdentity
from policies.encoder.backends import choose_backend, least_cosine, open_backend
from policies.encoder.batching import TokenBatcher
from policies.encoder.forward import Forward
from policies.encoder.graph_cache import default_cache_dir
from policies.encoder.source import EncoderSource, find_source
from policies.encoder.torch_network import reference_vectors
from policies.errors import InputError
from policies.leftovers import remove_leftovers, temporary_beside

PROBES = (
    "What is the capital of France?",
    "Write a Python function that returns the n-th Fibonacci number, and explain its complexity.",
    "A train leaves at 14:05 and arrives at 17:50. How long is the journey in minutes?",
    "Übersetze: Der frühe Vogel fängt den Wurm.",
)
"""What a loaded encoder is checked on, see :func:`policies.encoder.backends.least_cosine`."""


def content_hash(text: str) -> str:
    """Return the SHA-256 of the text's exact UTF-8 bytes, as hex: no trimming, no case folding."""
    return hashlib.sha256(text.encode()).hexdigest()


class Encoder:
    """A frozen sentence encoder, made by :func:`load_encoder`. One caller at a time.

    Attributes:
        identity: name, weights, backend, dimension and cut of the vectors.
    """

    def __init__(self, identity: EncoderIdentity, batcher: TokenBatcher, forward: Forward) -> None:
        self.identity = identity
        self._batcher = batcher
        self._forward = forward

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the vectors of ``texts`` in their order, shape (n, d), each of Euclidean length 1.

        Texts of like length share a forward pass. A vector depends on its batch companions through float
        rounding alone (see ``test_a_vector_does_not_depend_on_its_companions``); but with ``onnx-int8``, whose
        activations share one scale in a batch, in the second decimal.
        """
        vectors = np.empty((len(texts), self.identity.dimension), dtype=np.float32)
        if not texts:
            return vectors
        for rows, ids, mask in self._batcher.batches(texts):
            vectors[rows] = self._forward(ids, mask)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors


def encoder_identity(model: str, backend: str, max_tokens: int) -> EncoderIdentity:
    """Return the identity that :func:`load_encoder` would give, without loading the network.

    Raises:
        InputError: see :func:`load_encoder`.
    """
    return _identity(find_source(model), backend, max_tokens)


def load_encoder(
    model: str,
    backend: str,
    max_tokens: int,
    batch_tokens: int,
    threads: int = 1,
    *,
    cache_dir: Path | None = None,
) -> Encoder:
    """Load an encoder.

    Args:
        model: ``minilm`` (all-MiniLM-L6-v2, packaged), the folder of a sentence-transformers model, or a hub
            id.
        backend: one of :data:`policies.encoder.backends.BACKENDS`, or ``auto``, see
            :func:`policies.encoder.backends.choose_backend`.
        max_tokens: longer texts are cut, special tokens included.
        batch_tokens: padded tokens of one forward pass at most.
        threads: intra-op threads. The PyTorch backends set it for the whole process.
        cache_dir: folder of converted graphs; None means the user's cache folder.

    Raises:
        InputError: naming ``encoder.model``, ``encoder.backend`` or ``encoder.max_tokens``: there is no such
            model, the backend is not installed, the network reads fewer tokens, or its vectors stray from
            what sentence-transformers makes of the same texts.
    """
    source = find_source(model)
    identity = _identity(source, backend, max_tokens)
    if threads == 1:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    batcher = TokenBatcher(
        source.folder / "tokenizer.json",
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        pad_token_id=source.pad_token_id,
    )
    cache = cache_dir or default_cache_dir()
    forward = open_backend(identity.backend, source, threads=threads, cache_dir=cache)
    encoder = Encoder(identity, batcher, forward)
    _check_against_reference(encoder, source, cache)
    return encoder


def _identity(source: EncoderSource, backend: str, max_tokens: int) -> EncoderIdentity:
    longest = source.longest_input_tokens
    if longest is not None and max_tokens > longest:
        raise InputError(f"encoder.max_tokens={max_tokens}: {source.name} reads at most {longest} tokens")
    return EncoderIdentity(
        name=source.name,
        weights_sha256=source.weights_sha256,
        backend=choose_backend(backend),
        dimension=source.dimension,
        max_tokens=max_tokens,
    )


def _check_against_reference(encoder: Encoder, source: EncoderSource, cache: Path) -> None:
    """Compare with plain sentence-transformers, which costs seconds; its vectors are remembered on disk.

    Catches models that need what this encoder does not do (a default prompt, another tokenizer) and machines
    whose reduced precision is worse than it should be.
    """
    remembered = cache / f"probes-{source.fingerprint[:16]}-{encoder.identity.max_tokens}.npy"
    try:
        reference = np.load(remembered)
    except (OSError, ValueError, EOFError):
        reference = reference_vectors(source, PROBES, encoder.identity.max_tokens)
        try:
            remembered.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(remembered.parent, remembered.name)
            staging = temporary_beside(remembered)
            with staging.open("wb") as stream:
                np.save(stream, reference)
            staging.replace(remembered)
        except OSError:
            pass  # a read-only home: the comparison is made anew each time
    cosine = float((encoder.encode(PROBES) * reference).sum(axis=1).min())
    least = least_cosine(encoder.identity.backend)
    if not cosine >= least:
        raise InputError(
            f"encoder.model={source.name}, encoder.backend={encoder.identity.backend}: cosine {cosine:.6f} to "
            f"sentence-transformers in float32 on a probe text; allowed: {least} or more"
        )
