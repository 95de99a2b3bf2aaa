"""The response parser: any cut of the bytes gives the same response, garbage gives ProtocolError only."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.client.http1 import Response, ResponseParser, request_head
from paceline.protocol.errors import ProtocolError

BODY = bytes(range(256)) * 3
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 768\r\nX-A:  b \r\n\r\n" + BODY
CHUNKED = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 \r\ntransfer-encoding: CHUNKED\r\n\r\n"
    + b"100\r\n%s\r\n0200;ext=1\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (BODY[:256], BODY[256:])
)
EMPTY = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


def fed(data: bytes, cuts: list[int]) -> Response | None:
    parser = ResponseParser()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found = None
    for start, end in pairwise(edges):
        if start < end:
            assert found is None
            found = parser.feed(data[start:end])
    return found


@given(st.sampled_from([PLAIN, CHUNKED]), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_cut_gives_the_same_response(data: bytes, cuts: list[int]) -> None:
    response = fed(data, cuts)
    assert response is not None
    assert response.body == BODY
    assert response.reusable
    assert response.status == (200 if data is PLAIN else 201)


def test_byte_by_byte_and_one_after_the_other() -> None:
    parser = ResponseParser()
    for data in (CHUNKED, PLAIN, EMPTY):
        responses = [parser.feed(data[at : at + 1]) for at in range(len(data))]
        assert [response for response in responses if response is not None] == [responses[-1]]
        assert not parser.started
    assert responses[-1] is not None
    assert not responses[-1].reusable


def test_header_names_are_lower_case_and_values_stripped() -> None:
    response = fed(PLAIN, [])
    assert response is not None
    assert response.headers == {b"content-length": b"768", b"x-a": b"b"}


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    parser = ResponseParser()
    assert parser.feed(b"HTTP/1.1 200 OK\r\n\r\nab") is None
    assert parser.feed(b"c") is None
    response = parser.feed_eof()
    assert response is not None
    assert bytes(response.body) == b"abc"
    assert not response.reusable
    assert ResponseParser().feed_eof() is None


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nname : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffff\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000,
    ],
)
def test_what_is_no_response_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        ResponseParser().feed(data)


@given(st.binary(max_size=300), st.integers(0, 60))
def test_garbage_gives_protocol_errors_only(data: bytes, start: int) -> None:
    parser = ResponseParser()
    try:
        parser.feed(PLAIN[:start])
        parser.feed(data)
        parser.feed_eof()
    except ProtocolError:
        return


def test_a_request_head_has_its_length_and_host() -> None:
    head = request_head("POST", "/v2/models/m/infer", "h:1", {"a": "b"}, 7)
    assert head == b"POST /v2/models/m/infer HTTP/1.1\r\nhost: h:1\r\na: b\r\ncontent-length: 7\r\n\r\n"
    assert request_head("GET", "/v2", "h", {}, 0) == b"GET /v2 HTTP/1.1\r\nhost: h\r\n\r\n"
