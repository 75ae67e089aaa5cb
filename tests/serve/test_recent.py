"""The window of recent contexts."""

from dataclasses import replace

import numpy as np

from policies.bundle import EncoderIdentity
from serve.recent import RecentContexts

ENCODER = EncoderIdentity("tiny", "0" * 64, "torch-fp32", 2)


def test_the_newest_contexts_are_kept_in_order():
    recent = RecentContexts(2)
    for tokens in (1.0, 2.0, 3.0):
        recent.add(ENCODER, np.full(2, tokens, dtype=np.float32), tokens)
    vectors, tokens = recent.of(ENCODER)
    assert vectors.tolist() == [[2.0, 2.0], [3.0, 3.0]]
    assert tokens.tolist() == [2.0, 3.0]


def test_vectors_of_another_encoder_are_left_out():
    recent = RecentContexts()
    recent.add(ENCODER, np.zeros(2, dtype=np.float32), 1.0)
    recent.add(replace(ENCODER, weights_sha256="1" * 64, dimension=3), np.zeros(3, dtype=np.float32), 9.0)
    vectors, tokens = recent.of(ENCODER)
    assert vectors.shape == (1, 2)
    assert tokens.tolist() == [1.0]


def test_an_empty_window_has_the_encoders_shape():
    vectors, tokens = RecentContexts().of(ENCODER)
    assert vectors.shape == (0, 2)
    assert tokens.shape == (0,)
