"""The application against its own description: no request that fits it, or nearly does, is answered with a fault."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from hypothesis.strategies import SearchStrategy

from serve.runtime import Runtime
from serve.settings import ServeSettings
from tests.serve.local_server import serving

EXAMPLES = 12
"""A route; about half a minute for all."""

MEANT = (502, 503, 504)
"""Answers of the gateway that are no fault of the application: upstreams that fail, or none at all."""


@pytest.fixture(scope="module")
def description(bundle_dir):
    with serving(Runtime.open(ServeSettings(bundle=str(bundle_dir), max_prompt_chars=5_000))) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_no_request_is_answered_with_a_fault(description):
    operations = [found.ok() for found in description.get_all_operations()]
    assert len(operations) >= 8
    for operation in operations:
        fuzz(operation.as_strategy())


def fuzz(cases: SearchStrategy[schemathesis.Case]) -> None:
    @hypothesis.given(case=cases)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        answer = case.call(timeout=60)
        assert answer.status_code < 500 or answer.status_code in MEANT, case.as_curl_command()
        if answer.status_code >= 400:
            assert answer.json()["error"]["message"]

    check()
