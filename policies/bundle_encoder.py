"""The encoder that a policy artifact expects, checked to be the very one it was trained on."""

from __future__ import annotations

from policies.bundle import EncoderIdentity, RouterBundle
from policies.encoder import Encoder, encoder_identity, load_encoder
from policies.errors import InputError


def load_bundle_encoder(
    bundle: RouterBundle, *, batch_tokens: int, backend: str | None = None, threads: int = 1
) -> Encoder:
    """Return the encoder of a bundle.

    Args:
        bundle: the policy artifact.
        batch_tokens: padded tokens of one forward pass.
        backend: another backend than the bundle's, None for the bundle's.
        threads: intra-op threads.

    Raises:
        InputError: no such encoder or backend here, or the weights are not those of the bundle.
    """
    wanted = bundle.encoder
    encoder = load_encoder(wanted.name, backend or wanted.backend, wanted.max_tokens, batch_tokens, threads)
    _check_weights(bundle, encoder.identity)
    return encoder


def check_bundle_encoder(bundle: RouterBundle, backend: str | None = None) -> None:
    """Check, without loading the network, that this machine has the encoder of a bundle.

    Raises:
        InputError: see :func:`load_bundle_encoder`.
    """
    wanted = bundle.encoder
    _check_weights(bundle, encoder_identity(wanted.name, backend or wanted.backend, wanted.max_tokens))


def _check_weights(bundle: RouterBundle, found: EncoderIdentity) -> None:
    wanted = bundle.encoder
    if found.weights_sha256 != wanted.weights_sha256:
        raise InputError(
            f"encoder '{wanted.name}': weights {found.weights_sha256[:12]}, but policy "
            f"{bundle.policy_version} was trained on weights {wanted.weights_sha256[:12]}"
        )
