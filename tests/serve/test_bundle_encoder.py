from __future__ import annotations

from dataclasses import replace

import pytest

from policies.bundle_encoder import check_bundle_encoder, load_bundle_encoder
from policies.errors import InputError


def test_the_bundles_own_encoder_is_accepted(bundle):
    assert load_bundle_encoder(bundle, batch_tokens=1024).identity == bundle.encoder


@pytest.mark.parametrize(
    "load", [check_bundle_encoder, lambda bundle: load_bundle_encoder(bundle, batch_tokens=1024)]
)
def test_an_encoder_with_other_weights_is_refused(bundle, load):
    other = replace(bundle, encoder=replace(bundle.encoder, weights_sha256="0" * 64))
    with pytest.raises(InputError, match="weights"):
        load(other)
