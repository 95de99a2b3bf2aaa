"""What a dead process's seat and slot say of its death: remains for the obituary, a death for the policy. Pure."""

from __future__ import annotations

import signal

from paceline.protocol.control import State
from paceline.protocol.slot import SlotView
from paceline.supervisor.obituary import Remains, reason_of
from paceline.supervisor.policy import Death, blame
from paceline.supervisor.seat import API_SERVER, Occupant, Seat

_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)


def remains_of(seat: Seat, occupant: Occupant, returncode: int, view: SlotView | None, oom_kills: int) -> Remains:
    """`view` is what its slot said last, `oom_kills` what the cgroup counted since the last death."""
    in_hand = view.in_hand if view is not None and view.known else None
    if seat.kind == API_SERVER or (not seat.was_ready and view is None):
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
