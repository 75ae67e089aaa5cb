"""The frozen sentence encoder: texts to unit vectors, the same for embedding tables, batch routing and serving."""

from policies.encoder.backends import explain_backend
from policies.encoder.encoder import Encoder, content_hash, encoder_identity, load_encoder

__all__ = ["Encoder", "content_hash", "encoder_identity", "explain_backend", "load_encoder"]
