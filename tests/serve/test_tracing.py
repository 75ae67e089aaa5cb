"""Spans of a request and its stages."""

from __future__ import annotations

import itertools

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from policies.errors import InputError
from serve.runtime import Runtime
from serve.settings import ServeSettings
from serve.tracing import Tracing
from tests.serve.local_server import serving

CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def spans(bundle_dir):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    runtime = Runtime.open(ServeSettings(bundle=str(bundle_dir)))
    runtime.metrics.tracing = Tracing(provider)
    with serving(runtime) as url:
        httpx.post(
            f"{url}/v1/route",
            json={"prompt": "zebra-7731 is private", "w_cost": 0.5},
            headers={"traceparent": f"00-{CALLER}-00f067aa0ba902b7-01"},
            timeout=60.0,
        )
        httpx.get(f"{url}/no", timeout=60.0)
    return exporter.get_finished_spans()


def test_a_request_holds_its_stages_in_order(spans):
    request = next(span for span in spans if span.attributes.get("url.path") == "/v1/route")
    stages = [span for span in spans if span.parent and span.parent.span_id == request.context.span_id]
    assert [span.name for span in stages] == ["embed", "decide", "journal"]
    edges = [edge for span in stages for edge in (span.start_time, span.end_time)]
    slack_ns = 5_000_000
    assert all(later >= earlier - slack_ns for earlier, later in itertools.pairwise(edges))
    assert request.start_time - slack_ns <= edges[0]
    assert edges[-1] <= request.end_time


def test_a_request_belongs_to_its_callers_trace(spans):
    route = [span for span in spans if f"{span.context.trace_id:032x}" == CALLER]
    assert {span.name for span in route} == {"request", "embed", "decide", "journal"}


def test_a_span_tells_the_status(spans):
    found = {
        s.attributes["url.path"]: s.attributes["http.response.status_code"]
        for s in spans
        if s.name == "request"
    }
    assert found == {"/v1/route": 200, "/no": 404}


def test_spans_hold_no_prompt(spans):
    assert "zebra" not in "".join(span.to_json() for span in spans)


def test_without_the_exporter_the_package_is_named(bundle_dir):
    pytest.importorskip("opentelemetry.sdk")
    try:
        import opentelemetry.exporter.otlp.proto.http  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="opentelemetry-exporter-otlp-proto-http"):
            Tracing.open()
    else:
        assert Tracing.open()
