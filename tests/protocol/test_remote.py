"""Peers on other machines: addresses, names, and times that survive two clocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.protocol import messages
from paceline.protocol.channel import fresh_incarnation
from paceline.protocol.forecast import BacklogPoint, Forecast
from paceline.protocol.messages import Infer
from paceline.protocol.remote import as_received, as_sent, forecast_as_received, is_remote
from paceline.protocol.tcp import split_tcp, tcp_address
from tests.protocol.corpus import DATA, REMOTE_ORIGIN, item

HOUR_NS = 3600 * 10**9


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:7400", "tcp://gpu-1.example.org:0", "tcp://a_b:65535", "tcp://x:1"]
)
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    assert tcp_address(*split_tcp(address)) == address


@pytest.mark.parametrize(
    "address",
    [
        *["", "tcp://", "tcp://:1", "tcp://a", "tcp://a:", "tcp://a:65536", "tcp://a:-1", "tcp://a:1/x", "http://a:1"],
        *["tcp://*:1", "tcp://[::1]:1", "tcp://a b:1", "tcp://a:1 ", "tcp://a;b:1", "tcp://-a:1", "TCP://a:1"],
    ],
)
def test_anything_else_is_none(address: str) -> None:
    with pytest.raises(ValueError, match="is not tcp://host:port"):
        split_tcp(address)


def test_the_first_byte_of_a_name_tells_how_a_peer_is_connected() -> None:
    assert is_remote(fresh_incarnation(remote=True))
    assert not is_remote(fresh_incarnation())
    assert len(fresh_incarnation(remote=True)) == 16


def test_a_request_keeps_its_age_and_time_left_on_another_clock() -> None:
    sent = as_sent([item(1, (), arrival_ns=5_000_000_000, deadline_ns=7_000_000_000)], now_ns=5_500_000_000)
    assert (sent[0].arrival_ns, sent[0].deadline_ns) == (500_000, 1_500_000)
    (got,) = as_received(Infer(REMOTE_ORIGIN, sent), 100_000_000_000, HOUR_NS).items
    assert (got.arrival_ns, got.deadline_ns) == (99_500_000_000, 101_500_000_000)


@given(
    st.integers(0, 2**62),
    st.integers(0, 2**40),
    st.integers(-(2**40), 2**40),
    st.integers(2**41, 2**62),
)
def test_times_are_kept_to_the_microsecond_and_never_prolonged(now: int, age: int, left: int, there: int) -> None:
    here = [item(1, (), arrival_ns=max(0, now - age), deadline_ns=max(0, now + left))]
    (got,) = as_received(Infer(REMOTE_ORIGIN, as_sent(here, now)), there, 2**41).items
    left_ns, age_ns = here[0].deadline_ns - now, now - here[0].arrival_ns
    assert 0 <= max(0, left_ns) - (got.deadline_ns - there) < 1000
    assert 0 <= age_ns - (there - got.arrival_ns) < 1000


def test_nobody_has_more_time_than_the_server_grants_and_nothing_came_before_time_began() -> None:
    greedy = item(1, (), arrival_ns=2**64 - 1, deadline_ns=2**64 - 1)
    (got,) = as_received(Infer(REMOTE_ORIGIN, (greedy,)), 1000, HOUR_NS).items
    assert (got.arrival_ns, got.deadline_ns) == (0, 1000 + HOUR_NS)


def test_a_request_whose_time_is_up_has_none_left() -> None:
    (sent,) = as_sent([item(1, (), arrival_ns=1000, deadline_ns=2000)], now_ns=3000)
    assert (sent.arrival_ns, sent.deadline_ns) == (2, 0)


def test_all_else_travels_as_it_is() -> None:
    message = DATA["infer_remote"]
    assert isinstance(message, Infer)
    got = messages.decode(messages.encode(as_received(message, HOUR_NS, HOUR_NS)))
    assert isinstance(got, Infer)
    assert [(each.counter, each.call(), each.key) for each in got.items] == [
        (each.counter, each.call(), each.key) for each in message.items
    ]


def test_a_forecast_has_its_times_on_the_readers_clock_and_idle_stays_idle() -> None:
    told = Forecast(1000, 5, 20.0, (1400, 0), (), (BacklogPoint(0, 900, 2), BacklogPoint(1, 2000, 5)))
    read = forecast_as_received(told, 50)
    assert read == Forecast(50, 5, 20.0, (450, 0), (), (BacklogPoint(0, -50, 2), BacklogPoint(1, 1050, 5)))
