"""What is read at a glance is what the full parser reads; everything else is left to it."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving_lookup.http_head import HotHeads

LINE = b"GET /v1/models/m/users/%b/recommendations HTTP/1.1\r\n"
PLAIN = LINE % b"a%2Fb" + b"Host: x\r\nAccept:  */* \r\n\r\n"
BATCH = (
    b'POST /v1/models/m/recommendations:batch HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n{"users":[1]}'
)
PARTS = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"host: x\r\n", b"Host:y\r\n", b"X-A: \xe9\r\n", b"a b: c\r\n", b"\x00",
     b"content-length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"connection: close\r\n", b" folded\r\n", b"?k=1",
     b"?k=\x7f", b"#f", b"HTTP/1.0", b"GET", b"/", b"a", b"\xff"]
)  # fmt: skip


def test_a_plain_request() -> None:
    request = HotHeads("m").read(PLAIN)
    assert request is not None
    assert request.user == b"a%2Fb"
    assert request.raw_path == b"/v1/models/m/users/a%2Fb/recommendations"
    assert (request.query, request.headers) == (b"", ((b"host", b"x"), (b"accept", b"*/*")))
    asked = HotHeads("m").read(PLAIN.replace(b" HTTP", b"?k=3&exclude=a%2Cb HTTP"))
    assert asked is not None
    assert asked.query == b"k=3&exclude=a%2Cb"


def test_a_batch_with_all_of_its_body() -> None:
    request = HotHeads("m").read(BATCH)
    assert request is not None
    assert (request.route, request.body) == ("batch", b'{"users":[1]}')
    assert request.raw_path == b"/v1/models/m/recommendations:batch"


@given(
    st.sampled_from([PLAIN, BATCH]),
    st.integers(0, len(BATCH)),
    st.integers(0, 12),
    st.lists(PARTS, max_size=4),
)
@example(PLAIN, 0, 0, [])
@example(BATCH, 0, 0, [])
@example(PLAIN, len(PLAIN), 0, [PLAIN])
@example(BATCH, len(BATCH), 0, [PLAIN])
def test_never_another_reading_than_the_full_parsers(
    whole: bytes, at: int, cut: int, parts: list[bytes]
) -> None:
    data = whole[:at] + b"".join(parts) + whole[at + cut :]
    heads = HotHeads("m")
    for _ in range(2):  # the second time headers are remembered
        request = heads.read(data)
        if request is None:
            continue
        parser = h11.Connection(h11.SERVER)
        parser.receive_data(data)
        event = parser.next_event()
        assert isinstance(event, h11.Request)
        query = b"?" + request.query if b"?" in event.target else b""
        method = b"GET" if request.body is None else b"POST"
        assert (event.method, event.target) == (method, request.raw_path + query)
        assert tuple(event.headers) == request.headers
        if request.body:
            body = parser.next_event()
            assert isinstance(body, h11.Data)
            assert body.data == request.body
        assert isinstance(parser.next_event(), h11.EndOfMessage)
        assert parser.trailing_data == (b"", False)


@pytest.mark.parametrize(
    "unusual",
    [
        PLAIN[:-1],
        PLAIN + b"x",
        PLAIN.replace(b"GET", b"HEAD"),
        PLAIN.replace(b"1.1", b"1.0"),
        PLAIN.replace(b"/m/", b"/other/"),
        PLAIN.replace(b"Host", b"Connection: close\r\nHost"),
        PLAIN.replace(b"Host", b"Content-Length: 0\r\nHost"),
        BATCH[:-1],
        BATCH + b"x",
        BATCH.replace(b"Content-Length: 13\r\n", b""),
        BATCH.replace(b"13", b"13, 13"),
        BATCH.replace(b"13", b"9" * 5000),
        BATCH.replace(b"13", b"013", 1).replace(b"POST", b"PUT"),
        BATCH.replace(b":batch", b":batch?k=1"),
        PLAIN.replace(b"Host: x\r\n", b""),
        PLAIN.replace(b"Host: x\r\n", b"Host: x\r\nHost: y\r\n"),
    ],
)
def test_the_unusual_is_left_alone(unusual: bytes) -> None:
    assert HotHeads("m").read(unusual) is None
