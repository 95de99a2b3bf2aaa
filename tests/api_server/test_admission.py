"""Who is refused at once: Hosts with fake connections on a virtual clock, and a whole server with a fake host.

One row takes 0.1 s at the fake hosts, a full batch of 4 takes 0.2 s.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from paceline.protocol.clock import SystemClock
from paceline.protocol.control import Host
from paceline.protocol.errors import InfeasibleNow, InvalidParameter, QueueFull
from paceline.protocol.forecast import BacklogPoint, Forecast, KeyTable
from paceline.protocol.messages import Failure, encode
from paceline.protocol.spec import RunnerSpec
from tests.api_server.test_hosts import World
from tests.api_server.world import (
    HOST,
    ORIGIN,
    OTHER_HOST,
    FakeHosts,
    FakePipe,
    echo,
    good,
    json_body,
    post,
    run,
    runner,
    running,
    serve,
    topology,
    up,
)

KEY_TABLE = KeyTable("__call__", b"k", 0, True, 4, (1, 4), (0.1, 0.2))
REPLY_S = 0.0005


def tell(world: World, pipe: FakePipe, *, free_in_s: float = 0.3, rows: int = 0, table: KeyTable = KEY_TABLE) -> None:
    """The host behind `pipe` says when its worker frees, and that `rows` wait that have a minute's time."""
    now_ns = world.loop.clock.now_ns()
    backlog = (BacklogPoint(-1, now_ns + 60 * 10**9, rows),) if rows else ()
    pipe.on_message(encode(Forecast(now_ns, rows, 20.0, (now_ns + round(free_in_s * 1e9),), (table,), backlog)))


def lateness(world: World, budget_s: float, rows: int = 1) -> float:
    """How late the request would be, as the refusal says it."""
    with pytest.raises(InfeasibleNow, match=r"after its deadline under the present load; retry after that time") as no:
        world.submit(budget_s, rows=rows)
    assert no.value.retry_after_s is not None
    return no.value.retry_after_s


def test_who_would_be_late_is_refused_at_once_and_never_sent() -> None:
    world = World()
    pipe = world.up()
    tell(world, pipe, rows=12)
    assert lateness(world, 0.5) == pytest.approx(0.3 + 3 * 0.2 + 0.2 + REPLY_S - 0.5)
    world.submit(1.11)
    world.loop.tick()
    assert len(pipe.items) == 1
    assert (world.hosts.counters.refused, world.hosts.counters.accepted) == (1, 1)
    assert len(world.hosts) == 1


def test_who_comes_back_after_the_time_that_was_named_is_taken() -> None:
    world = World()
    pipe = world.up()
    tell(world, pipe, rows=12)
    world.loop.advance(lateness(world, 0.5) + 1e-6)
    world.submit(0.5)


def test_what_this_process_sent_and_what_it_has_not_sent_yet_goes_first() -> None:
    world = World(window_requests=4)
    pipe = world.up()
    tell(world, pipe)
    for _ in range(12):
        world.submit(1.0)
    assert lateness(world, 1.05) == pytest.approx(0.3 + 3 * 0.2 + 0.2 + REPLY_S - 1.05)  # they are in this very tick
    world.loop.tick()
    assert len(pipe.items) == 4  # the window is full
    assert lateness(world, 1.05) == pytest.approx(0.3 + 3 * 0.2 + 0.2 + REPLY_S - 1.05)


def test_a_learned_tables_word_lets_a_probe_through_now_and_then() -> None:
    world = World()
    pipe = world.up()
    tell(world, pipe, rows=400, table=replace(KEY_TABLE, known=False))
    world.submit(0.5)
    assert lateness(world, 0.5) > 0
    world.loop.advance(0.1)
    world.submit(0.5)
    assert world.hosts.counters.probes == 2
    assert world.hosts.counters.refused == 1


def test_it_is_enough_if_one_host_can() -> None:
    world = World(runner(workers=2, dispatch="worker"))
    world.up(1, HOST, OTHER_HOST)
    first, second = world.fake.pipes
    tell(world, first, rows=400)
    tell(world, second, rows=12)
    world.submit(1.2)
    assert lateness(world, 1.0) == pytest.approx(0.3 + 3 * 0.2 + 0.2 + REPLY_S - 1.0)


def test_what_waits_in_this_process_is_for_all_hosts_together() -> None:
    world = World(runner(workers=2, dispatch="worker"))
    world.up(1, HOST, OTHER_HOST)
    for pipe in world.fake.pipes:
        tell(world, pipe)
    for _ in range(23):
        world.submit(5.0)
    world.submit(1.05)  # behind eleven at each
    assert lateness(world, 1.05) == pytest.approx(0.3 + 3 * 0.2 + 0.2 + REPLY_S - 1.05)


def test_a_host_that_said_nothing_refuses_nobody() -> None:
    world = World(runner(workers=2, dispatch="worker"))
    world.up(1, HOST, OTHER_HOST)
    tell(world, world.fake.pipes[0], rows=400)
    world.submit(0.2)


@pytest.mark.parametrize("hosts", [(up(state="draining"),), ()], ids=["leaves or hangs", "is gone"])
def test_the_word_of_a_host_that_takes_nothing_is_forgotten(hosts: tuple[Host, ...]) -> None:
    world = World()
    tell(world, world.up(), rows=400)
    world.hosts.apply(topology(2, *hosts))
    world.submit(0.2)
    world.hosts.apply(topology(3, up()))
    world.submit(0.2)


def test_a_snapshot_in_which_the_host_is_still_ready_changes_nothing() -> None:
    world = World()
    tell(world, world.up(), rows=400)
    world.hosts.apply(topology(2, up()))
    assert lateness(world, 0.2) > 0


def test_the_word_of_a_host_that_gave_requests_back_is_forgotten() -> None:
    world = World()
    pipe = world.up()
    counter, _ = world.submit()
    world.loop.tick()
    tell(world, pipe, rows=400)
    pipe.answer([Failure(counter, 0, "draining", "")])
    world.submit(0.2)


def test_a_full_queue_and_a_late_request_are_told_when_to_come_back() -> None:
    world = World(window_requests=1, pending_requests=1)
    pipe = world.up()
    tell(world, pipe, rows=99)
    for _ in range(2):
        world.submit(60.0, rows=1)
        world.loop.tick()
    with pytest.raises(QueueFull) as full:
        world.submit(60.0)
    assert full.value.retry_after_s == pytest.approx((99 + 1) / 20.0)


def test_another_machines_forecast_is_read_on_the_own_clock() -> None:
    world = World(origin=b"\x02" + ORIGIN[1:])
    pipe = world.up()
    there_ns = 7 * 10**15
    pipe.on_message(encode(Forecast(there_ns, 0, 20.0, (there_ns + 300_000_000,), (KEY_TABLE,))))
    assert lateness(world, 0.3) == pytest.approx(0.3 + 0.1 + REPLY_S - 0.3)


GIVEN = runner(latency_table=((4, 22.0), (1, 5.5)), max_batch_size=4)


@pytest.mark.parametrize(
    ("spec", "budget_s", "rows", "words"),
    [
        (GIVEN, 0.0059, 1, "the budget is 5.9 ms; 1 row(s) of 'net' take 5.5 ms alone, .*; allow 6.5 ms or more"),
        (GIVEN, 0.01, 3, "3 row(s) of 'net' take 16.5 ms alone, .*; allow 17.5 ms"),
        (GIVEN, 0.04, 8, "8 row(s) of 'net' take 44 ms alone, .*; allow 45 ms"),
        (replace(GIVEN, workers=2, dispatch="central"), 0.0061, 1, "allow 6.9 ms"),
        (replace(GIVEN, buckets=(2, 4)), 0.01, 1, "1 row(s) of 'net' take 11 ms alone, .*; allow 12 ms"),
    ],
)
def test_a_budget_that_an_idle_worker_could_not_keep_is_wrong_input(
    spec: RunnerSpec, budget_s: float, rows: int, words: str
) -> None:
    world = World(spec)
    world.up()
    with pytest.raises(InvalidParameter, match=words.replace("(", r"\(").replace(")", r"\)")):
        world.submit(budget_s, rows=rows)
    assert len(world.hosts) == 0
    world.submit(0.045, rows=rows)


def test_the_budget_that_is_named_works() -> None:
    world = World(GIVEN)
    world.up()
    world.submit(0.0065)


def test_without_a_given_table_no_budget_is_too_small_to_try() -> None:
    world = World()
    world.up()
    world.submit(1e-6)


def test_refusals_come_at_once_over_http_with_retry_after() -> None:
    """The host never answers: whoever waited for it would do so for his 2 s."""

    async def scenario() -> None:
        hosts = FakeHosts(echo)
        async with running(hosts=hosts) as world:
            wire = await world.connect()
            wire.send(good())
            assert (await wire.reply()).status == 200
            table = replace(KEY_TABLE, key=hosts.pipes[0].items[0].key)
            hosts.pipes[0].reply = None
            now_ns = SystemClock.now_ns()
            busy_until_ns = now_ns + 60 * 10**9
            hosts.pipes[0].on_message(encode(Forecast(now_ns, 0, 20.0, (busy_until_ns,), (table,))))
            wire.send(post(json_body(), "x-request-timeout-ms: 2000"))
            reply = await wire.reply()
            assert (reply.status, reply.json()["code"]) == (503, "infeasible_now")
            assert reply.headers["retry-after"] == "30"
            wire.send(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
            text = (await wire.reply()).body.decode()
            assert "paceline_requests_refused_total 1\n" in text
            assert "paceline_requests_probing_total 0\n" in text

    run(scenario())


def test_a_budget_below_a_given_table_is_a_400_over_http() -> None:
    async def scenario() -> None:
        async with running(serve(GIVEN)) as world:
            wire = await world.connect()
            wire.send(post(json_body(), "x-request-timeout-ms: 3"))
            reply = await wire.reply()
            assert (reply.status, reply.json()["code"]) == (400, "invalid_parameter")
            assert "allow 6.5 ms or more" in reply.json()["error"]
            wire.send(post(json_body(), "x-request-timeout-ms: 5000"))
            assert (await wire.reply()).status == 200

    run(scenario())
