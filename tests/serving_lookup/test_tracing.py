"""Traces as a collector gets them: a span per request, scorings within it, callers' traces taken up."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.serving_lookup.published_world import MODEL, PRECOMPUTED, start_service, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.serving_lookup.published_world import World

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_a_collector_gets_spans_without_ids_of_users(
    own_world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    spans: list[Any] = []
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            bodies.append(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    hit, miss = own_world.tables.user_ids[77], own_world.tables.user_ids[PRECOMPUTED + 7]
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        settings = {"deadline_ms": 5000, "traces": f"http://127.0.0.1:{collector.server_port}/v1/traces"}
        with start_service(tmp_path, own_world.url, free_port(), settings) as service:
            wait_until(lambda: service.get("/health/ready").status_code == 200)
            for user in (hit, miss):
                path = f"/v1/models/{MODEL}/users/{user}/recommendations"
                service.get(path, headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
            service.get("/v1/models")
        wait_until(lambda: len(spans) >= 4)
        collector.shutdown()
    requests = [span for span in spans if span.name == "recommendations"]
    said = [{a.key: a.value.string_value or a.value.int_value for a in span.attributes} for span in requests]
    assert [(s["prescore.source"], s["prescore.generation"]) for s in said] == [
        ("precomputed", "g1"),
        ("fallback", "g1"),
    ]
    assert {s["http.response.status_code"] for s in said} == {200}
    assert {span.trace_id.hex() for span in requests} == {TRACE}
    assert [span.parent_span_id for span in spans if span.name == "score"] == [requests[1].span_id]
    assert "other" in {span.name for span in spans}
    assert not any(f"users/{user}" in str(body) for user in (hit, miss) for body in bodies)
