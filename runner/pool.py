"""The workers of one broker: who joined, which batches each has, what happens to these when a worker is lost.

Pure but for `send`: messages of workers and pictures of the pool in, the dispatcher's events, answers for the outbox
and messages to workers out. A batch is answered by the worker that has it and by no other. Called by the exchange.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from paceline.protocol import pool
from paceline.protocol.control import LostHost, Topology
from paceline.protocol.errors import ProtocolError
from paceline.protocol.pool import Done, Join, Leave, Refused, Released
from paceline.protocol.tensor import Buffer
from paceline.runner.desk import CAP_S, Desk, learned
from paceline.runner.dispatcher import BatchDone, CapChanged, Dispatch, Event, WorkerDraining, WorkerJoined, WorkerLost
from paceline.runner.inbox import Held, RequestKey
from paceline.runner.parcels import work_messages

logger = logging.getLogger(__name__)

PEERS_BLAMED_MAX = 1024


@dataclass(slots=True, eq=False)
class _Bound:
    """A batch bound to a worker; `sent` when the worker has it."""

    batch: Dispatch
    members: list[Held]
    sent: bool = False

    @property
    def is_suspect(self) -> bool:
        return self.members[0].item.suspect


@dataclass(slots=True, eq=False)
class _Member:
    """A worker that joined, and the batches bound to it, in order. `pictured`: the supervisor has told of it."""

    bound: list[_Bound] = field(default_factory=list)
    leaving: bool = False
    pictured: bool = False


@dataclass(slots=True)
class Served:
    """Totals since the start."""

    requests: int = 0
    batches: int = 0
    rows: int = 0


class Pool:
    """`digest`: of the model version that every worker must have loaded. `send(worker, parts)` as a Port's."""

    def __init__(self, desk: Desk, send: Callable[[bytes, Sequence[Buffer]], bool], digest: str) -> None:
        self.served = Served()
        self.malformed = 0
        self.late = 0
        self._desk = desk
        self._send = send
        self._digest = digest
        self._members: dict[bytes, _Member] = {}
        self._dead: frozenset[bytes] = frozenset()
        self._profiles_known: set[str] = set()
        self._blamed: set[bytes] = set()

    def __len__(self) -> int:
        """Workers that joined and have not left."""
        return len(self._members)

    def receive(self, peer: bytes, parts: list[Buffer], events: list[Event], now: float) -> None:
        """A message of a worker. One that cannot be read is counted and dropped, and its sender asked to end: what it
        answered with it is not known."""
        try:
            message = pool.decode(parts)
        except ProtocolError as error:
            self._blame(peer, str(error))
            return
        member = self._members.get(peer)
        if isinstance(message, Done):
            self._done(peer, member, message, events, now)
        elif isinstance(message, Join) and member is None:
            self._join(peer, message, events)
        elif isinstance(message, Leave):
            self._leave(peer, member, events)
        else:
            self._blame(peer, f"{type(message).__name__} is not expected of a worker now")

    def assign(self, batch: Dispatch) -> None:
        """The dispatcher's order: the worker gets the batch, now or once it may have it."""
        peer = cast("bytes", batch.worker_id)
        members = self._desk.inbox.start(cast("tuple[RequestKey, ...]", batch.request_ids))
        self._members[peer].bound.append(_Bound(batch, members))
        self._send_bound(peer)

    def loses(self, picture: Topology) -> bool:
        """Whether `picture` takes a worker away. Then first receive what had come from it: see `look`."""
        return bool(self._lost(picture))

    def look(self, picture: Topology, events: list[Event]) -> None:
        """The supervisor's word on who lives. Only by it is a worker lost."""
        for peer, started in self._lost(picture).items():
            self._lose(peer, started, events)
        for host in picture.hosts:
            if host.incarnation in self._members:
                self._members[host.incarnation].pictured = True
        self._dead = frozenset([lost.incarnation for lost in picture.lost])

    def _join(self, peer: bytes, join: Join, events: list[Event]) -> None:
        if peer in self._dead:
            return  # its Join was longer on its way than the news of its death
        if join.digest != self._digest:
            reason = f"the worker loaded the model digest {join.digest}, its runner serves {self._digest}"
            logger.error("worker refused", extra={"worker": peer.hex(), "reason": reason})
            self._send(peer, pool.encode(Refused(reason)))
            return
        self._members[peer] = _Member()
        if join.device not in self._profiles_known:
            # Once for each kind: later ones would only say again what is learned better by serving.
            self._profiles_known.add(join.device)
            events += learned(join.ladder, join.device)
        events.append(WorkerJoined(peer, join.device))
        logger.info("worker joined", extra={"worker": peer.hex(), "device": join.device})

    def _leave(self, peer: bytes, member: _Member | None, events: list[Event]) -> None:
        """It gets nothing more: whatever is in the pipe, Released comes behind it."""
        if member is not None:
            events.append(WorkerDraining(peer))
            member.leaving = True
            self._forget_if_gone(peer, member)
            if any(not bound.sent for bound in member.bound):
                return  # held back, and still to come
        self._send(peer, pool.encode(Released()))

    def _done(self, peer: bytes, member: _Member | None, done: Done, events: list[Event], now: float) -> None:
        bound = member.bound[0] if member is not None and member.bound else None
        if member is None or bound is None or not bound.sent or bound.batch.batch_id != done.batch_id:
            self.late += 1
            return
        for answer in done.answers:
            self._desk.outbox.forward(answer.origin, list(answer.parts), now)
        if not done.final:
            return
        batch = bound.batch
        del member.bound[0]
        for held in bound.members:
            self._desk.inbox.remove(held.key)
        events.append(BatchDone(peer, batch.batch_id, done.duration_s, done.learn))
        if done.cap_rows is not None:
            events.append(CapChanged(batch.key, done.cap_rows, now + CAP_S))
        self.served.requests += len(bound.members)
        self.served.batches += 1
        self.served.rows += batch.rows
        self._send_bound(peer)
        self._forget_if_gone(peer, member)

    def _send_bound(self, peer: bytes) -> None:
        """Send what is bound and may be sent. A suspect is never with the worker together with another batch: it may
        kill it, and take along what is before it in the pipes, or behind."""
        member = self._members[peer]
        for before, bound in zip([None, *member.bound], member.bound):
            if bound.sent:
                continue
            if before is not None and (before.is_suspect or bound.is_suspect):
                return
            batch = bound.batch
            for message in work_messages(batch.batch_id, batch.rows, bound.members):
                self._send(peer, message)
            bound.sent = True
            if member.leaving:
                self._send(peer, pool.encode(Released()))

    def _forget_if_gone(self, peer: bytes, member: _Member) -> None:
        if member.leaving and not member.bound:
            del self._members[peer]

    def _lost(self, picture: Topology) -> dict[bytes, frozenset[RequestKey] | None]:
        """Members that died, each with the requests that it had begun, None = any may have."""
        alive = {host.incarnation for host in picture.hosts}
        lost: dict[bytes, frozenset[RequestKey] | None] = {
            peer: None for peer, member in self._members.items() if member.pictured and peer not in alive
        }
        lost.update({each.incarnation: _begun(each) for each in picture.lost if each.incarnation in self._members})
        return lost

    def _lose(self, peer: bytes, started: Collection[RequestKey] | None, events: list[Event]) -> None:
        bound = self._members.pop(peer).bound
        begun = [
            each.batch.batch_id
            for each in bound
            if each.sent and (started is None or any(held.key in started for held in each.members))
        ]
        events.append(WorkerLost(peer, begun))
        for each in bound:
            for held in each.members:
                self._wait_again(held, each.batch.batch_id in begun)
        logger.warning("worker lost", extra={"worker": peer.hex(), "batches": len(bound), "begun": len(begun)})

    def _wait_again(self, held: Held, begun: bool) -> None:
        """As in the dispatcher, which has the request in its queue again, or rejects it."""
        item = held.item
        if held.cancelled:
            self._desk.intake.drop_cancelled(held)
        elif begun:
            self._desk.inbox.wait_again(held, replace(item, starts=item.starts + 1, suspect=True))
        else:
            self._desk.inbox.wait_again(held, item)

    def _blame(self, peer: bytes, error: str) -> None:
        self.malformed += 1
        if peer in self._members:
            self._send(peer, pool.encode(Refused(f"the broker cannot read what the worker sent: {error}")))
        if peer not in self._blamed and len(self._blamed) < PEERS_BLAMED_MAX:
            self._blamed.add(peer)
            logger.warning("malformed message dropped", extra={"peer": peer.hex(), "error": error})


def _begun(lost: LostHost) -> frozenset[RequestKey] | None:
    return frozenset(lost.started) if lost.known else None
