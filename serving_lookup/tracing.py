"""OpenTelemetry traces, where ``lookup.traces`` names a collector; nothing of it is imported otherwise.

One span per request, and one within it for each scoring. Spans carry route, status, source, generation and arm; never a
user's id. A caller's ``traceparent`` is taken up.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from features.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from serving_lookup.answers import Answer

    Headers = Iterable[tuple[bytes, bytes]]

SERVICE_NAME = "prescore-lookup"


class Span(Protocol):
    """What is told of a request or a scoring."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Say something of it."""

    def update_name(self, name: str) -> None:
        """Call it otherwise."""


class Tracing:
    """Makes spans.

    Args:
        endpoint: Where traces go by OTLP over HTTP, such as ``http://127.0.0.1:4318/v1/traces``; empty: nowhere.

    Raises:
        SettingsError: If the packages for it are not installed.
    """

    def __init__(self, endpoint: str) -> None:
        self.on = bool(endpoint)
        """Whether there is anywhere to send spans to."""
        self._tracer: Any = None
        self._provider: Any = None
        if not endpoint:
            return
        try:
            from opentelemetry import trace  # noqa: PLC0415 - an option that few need
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.propagate import extract  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise SettingsError(
                "lookup.traces is set, but OpenTelemetry is not installed",
                got=f"no package {error.name!r}",
                fix="pip install 'prescore[tracing]', or unset lookup.traces",
            ) from error
        self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE_NAME}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("serving_lookup")
        self._extract, self._server, self._current = extract, trace.SpanKind.SERVER, trace.get_current_span

    @contextmanager
    def request(self, route: str, headers: Headers) -> Iterator[Span]:
        """A span around the answering of one request; a part of the caller's trace if it names one."""
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        with self._tracer.start_as_current_span(
            route, context=self._extract(carrier), kind=self._server
        ) as span:
            yield span

    def say(self, answer: Answer) -> None:
        """Tell the current span where an answer came from."""
        if self.on:
            said = {"generation": answer.generation, "arm": answer.arm, "reason": answer.reason}
            self._current().set_attributes({f"prescore.{k}": v for k, v in said.items() if v is not None})

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A span within the current one."""
        if not self.on:
            yield
            return
        with self._tracer.start_as_current_span(name):
            yield

    def close(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            self._provider.shutdown()
