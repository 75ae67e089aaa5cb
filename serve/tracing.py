"""OpenTelemetry spans of a request and its stages, by option."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from policies.errors import InputError

NANOSECONDS = 1_000_000_000


class Tracing:
    """Makes spans: one a request, and in it one for each stage that was timed. They hold no text of requests.

    Args:
        provider: where spans go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("tradewind")
        self._context = TraceContextTextMapPropagator()

    @classmethod
    def open(cls) -> Self:
        """Send spans where the environment's ``OTEL_EXPORTER_OTLP_ENDPOINT`` says, in batches.

        Raises:
            InputError: the exporter's package is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
                OTLPSpanExporter,
            )
        except ImportError:
            raise InputError(
                "metrics.traces=true: needs the package opentelemetry-exporter-otlp-proto-http"
            ) from None
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider as SdkProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = SdkProvider(resource=Resource.create({"service.name": "tradewind"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """Trace a request, as part of its caller's trace when its headers name one (W3C Trace Context)."""
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        with self._tracer.start_as_current_span(
            "request",
            context=self._context.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "url.path": path},
            # An error's words may quote a prompt.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield span

    @staticmethod
    def answered(span: Span, status: int | None) -> None:
        """Tell a request's status; None when the caller left before there was one."""
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        if status is None or status >= 500:
            span.set_status(StatusCode.ERROR)

    def stage(self, name: str, seconds: float, attributes: Mapping[str, str] | None = None) -> None:
        """Trace a stage that ends now, in the request at hand; outside a request there is nothing to trace."""
        if not trace.get_current_span().get_span_context().is_valid:
            return
        end = time.time_ns()
        start = end - int(seconds * NANOSECONDS)
        self._tracer.start_span(name, start_time=start, attributes=attributes).end(end_time=end)
