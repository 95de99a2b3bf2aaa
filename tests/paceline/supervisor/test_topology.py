"""Snapshots of the picture: versions grow, deaths stay for a while."""

from __future__ import annotations

from paceline.protocol.control import Host, LostHost, State, decode, encode
from paceline.protocol.slot import IDS_MAX
from paceline.supervisor.topology import LOST_MAX, STARTED_MAX, Picture


def host(number: int, state: str = State.READY) -> Host:
    return Host("net", bytes([number]) * 16, f"ipc:///run/h-{number}", state)


def lost(number: int) -> LostHost:
    return LostHost("net", bytes([number]) * 16, "killed", True, True, ())


def test_version_grows_with_changes_only() -> None:
    picture = Picture()
    assert picture.take().version == 1
    picture.put(host(1))
    assert (picture.take().version, picture.take().version) == (2, 2)
    picture.put(host(1))
    assert picture.take().version == 2


def test_taking_a_snapshot_does_not_settle_a_change() -> None:
    picture = Picture()
    picture.take()
    picture.take_remote(b"\x02" * 16)
    assert picture.changed


def test_a_change_is_settled_once_everybody_was_told() -> None:
    picture = Picture()
    changed = [picture.changed]
    for act in (picture.told, lambda: picture.put(host(1)), picture.told):
        act()
        changed.append(picture.changed)
    assert changed == [True, False, True, False]


def test_new_state_replaces_the_old_one() -> None:
    picture = Picture()
    picture.put(host(1))
    picture.put(host(1, State.DRAINING))
    assert picture.take().hosts == (host(1, State.DRAINING),)


def test_dead_host_moves_to_the_lost() -> None:
    picture = Picture()
    picture.put(host(1))
    picture.lose(lost(1))
    topology = picture.take()
    assert (topology.hosts, topology.lost) == ((), (lost(1),))


def test_process_that_never_was_a_host_is_not_lost() -> None:
    picture = Picture()
    picture.told()
    picture.lose(lost(1))
    assert not picture.changed
    assert picture.take().lost == ()


def test_process_that_others_may_have_met_before_us_is_lost_all_the_same() -> None:
    picture = Picture()
    picture.told()
    picture.lose(lost(1), unseen=True)
    assert (picture.changed, picture.take().lost) == (True, (lost(1),))


def test_host_that_left_in_good_order_is_not_lost() -> None:
    picture = Picture()
    picture.put(host(1))
    picture.remove(host(1).incarnation)
    assert (picture.take().hosts, picture.take().lost) == ((), ())


def test_only_the_latest_deaths_are_kept() -> None:
    picture = Picture()
    for number in range(LOST_MAX + 8):
        picture.put(host(number))
        picture.lose(lost(number))
    kept = picture.take().lost
    assert [each.incarnation[0] for each in kept] == list(range(8, LOST_MAX + 8))


def test_snapshot_of_many_great_losses_still_fits_a_message() -> None:
    picture = Picture()
    for number in range(LOST_MAX):
        picture.put(host(number))
        started = tuple((bytes([number]) * 16, 2**62 + each) for each in range(IDS_MAX))
        picture.lose(LostHost("net", bytes([number]) * 16, "killed" * 80, True, True, started))
    topology = picture.take()
    assert sum(len(each.started) for each in topology.lost) == STARTED_MAX
    assert decode(encode(topology)) == topology


def test_failed_runner_and_drain_are_shown() -> None:
    picture = Picture()
    picture.fail("net", "no weights")
    picture.fail("net", "no weights at all")
    picture.drain()
    topology = picture.take()
    assert [(each.runner, each.reason) for each in topology.failed] == [("net", "no weights at all")]
    assert topology.draining


def test_other_machines_see_hosts_by_their_remote_addresses_and_only_their_own_losses() -> None:
    alice, bob = b"\x02" * 16, b"\x03" * 16
    picture = Picture()
    picture.put(host(1), "tcp://0.0.0.0:7401")
    picture.put(host(2))
    picture.put(host(3), "tcp://0.0.0.0:7403")
    picture.lose(LostHost("net", host(3).incarnation, "killed", True, True, ((alice, 1), (bob, 2), (alice, 3))))
    here, there = picture.take(), picture.take_remote(alice)
    assert here.hosts == (host(1), host(2))
    assert [each.address for each in there.hosts] == ["tcp://0.0.0.0:7401"]
    assert there.lost[0].started == ((alice, 1), (alice, 3))
    assert (there.version, there.lost[0].known) == (here.version, True)


def test_a_host_that_drains_keeps_its_remote_address() -> None:
    picture = Picture()
    picture.put(host(1), "tcp://0.0.0.0:7401")
    picture.put(host(1, State.DRAINING), "tcp://0.0.0.0:7401")
    (seen,) = picture.take_remote(b"\x02" * 16).hosts
    assert (seen.address, seen.state) == ("tcp://0.0.0.0:7401", State.DRAINING)
