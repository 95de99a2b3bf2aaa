"""What is known of a death: remains for the obituary, a death for the policy, a broker's begun requests. Pure."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from itertools import chain

from paceline.protocol.control import LostHost, State
from paceline.protocol.slot import SlotView
from paceline.supervisor.obituary import Remains, reason_of
from paceline.supervisor.policy import Death, blame
from paceline.supervisor.seat import WORKER, Occupant, Seat
from paceline.supervisor.topology import STARTED_MAX

_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)


def remains_of(seat: Seat, occupant: Occupant, returncode: int, view: SlotView | None, oom_kills: int) -> Remains:
    """`view` is what its slot said last, `oom_kills` what the cgroup counted since the last death."""
    in_hand = view.in_hand if view is not None and view.known else None
    if seat.kind != WORKER or (not seat.was_ready and view is None):
        in_hand = ()
    return Remains(
        returncode=returncode,
        killed_for=seat.killed_for,
        said=seat.said,
        oom_kills=oom_kills,
        in_hand=in_hand,
        started=view.started if view is not None else (),
        last_lines=tuple(occupant.child.output.last_lines),
    )


def death_of(seat: Seat, remains: Remains, view: SlotView | None) -> Death:
    """Ask before the seat is emptied."""
    left_when_asked = remains.returncode == 0 and seat.state in (State.DRAINING, State.STOPPED)
    from_outside = not seat.killed_for and (remains.returncode in _FROM_OUTSIDE or left_when_asked)
    served = view is not None and max(view.requests, view.batches) > 0
    in_hand = remains.in_hand is None or bool(remains.in_hand)
    return Death(
        reason_of(remains),
        load_error=bool(seat.said) and not seat.was_ready,
        blame=blame(seat.was_ready, served, seat.has_served, in_hand, from_outside),
    )


def begun_in_pool(
    views: Sequence[SlotView | None], dead: Sequence[LostHost], rows_max: int
) -> tuple[tuple[bytes, int], ...] | None:
    """The requests that the workers of a dead broker had begun and that nobody may have answered; None = unknown.

    `views`: its workers' slots, None where there is none; `dead`: the workers that it lost before, oldest first.

    Not all that they ever began, since a message holds STARTED_MAX ids: of each ring the newest. What a sender still
    waits for is the end of each: a worker has at most two batches that it did not answer to the broker, but what it
    had answered may still have been in the broker's pipe to a slow API server, up to that one's window. So two batches
    are not enough, and with few workers nearly the whole ring goes in. What a dead worker had begun and did not answer,
    its last two batches, was to be run by others, and is in no living slot.
    """
    fallen = tuple(chain(*[lost.started[-2 * rows_max :] for lost in reversed(dead)]))[: STARTED_MAX // 4]
    slots = [view for view in views if view is not None]
    share = (STARTED_MAX - len(fallen)) // max(1, len(slots))
    if any(not view.known or len(view.in_hand) > share for view in slots):
        return None
    return tuple(dict.fromkeys(chain(*[view.started[-share:] for view in slots], fallen)))
