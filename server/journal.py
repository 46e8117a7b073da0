"""What watchers are told: one journal per workflow, from which any number of readers catch up at their own pace.

A journal is a mailbox that merges: a reader that lags gets the deltas of a call as one. Nothing is kept per reader, and
of an ended call only its outcome, of one that was restarted only the current attempt. With a pace, readers are woken
for tokens alone only as often as it allows; for everything else, and for the first tokens of a call, at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.scheduler.spec import Closed, DecodeSpec, Event, Receipt, Restarted, State, StateChanged, TokensAdded
from pavane.server.convert import STATES, failure_message
from pavane.server.deltas import Deltas
from pavane.server.ends import End
from pavane.server.pace import Pace
from pavane.server.text.tokenizer import Tokenizer

Key = tuple[str, str]
CLOSED_KEPT = 1024
LEAVING_KEPT = 256  # ends of calls that were released before: whoever reads them is not far behind
FEW = 8  # ids that are looked up one by one


@dataclass(slots=True)
class _Waiting:
    """A reader that has read everything."""

    woken: asyncio.Future[None]
    ids: Set[str]  # empty: all
    deltas: bool


@dataclass(slots=True)
class _CallLog:
    decode: DecodeSpec | None
    first: int  # cursor before the call's first event
    deltas: Deltas  # of the current attempt
    latest: int = 0
    state: State = State.BLOCKED
    state_cursor: int = 0
    restarted: pb.Event | None = None  # the last one: deltas before it are void
    ended: End | None = None
    runs: int = 0  # Run streams that read it and did not ask to detach
    own: bool = True  # some submission of it was not by such a Run
    released: bool = False


class Journal:
    """The events of one workflow, numbered from 1."""

    def __init__(self, tokenizer: Tokenizer, pace: Pace | None = None) -> None:
        self.cursor = 0
        self.closed = False
        self.forgotten = 0  # calls, so far
        self._leaving: deque[str] = deque()  # ended, after they were released
        self._tokenizer = tokenizer
        self._logs: OrderedDict[str, _CallLog] = OrderedDict()  # by their latest event
        self._waiting: list[_Waiting] = []
        self._long: set[str] = set()  # ended calls of which `read` would take long
        self._pace = pace
        self._held: set[str] = set()  # calls with tokens for which nobody has been woken yet
        self._due = 0  # with a pace: whoever has not read so far need not wait

    def expect(self, message_id: str, decode: DecodeSpec | None) -> None:
        """A call is about to be submitted; its events need to know its stop strings."""
        if message_id not in self._logs:
            self._logs[message_id] = _CallLog(decode, self.cursor, Deltas(self._tokenizer, decode))
            self._logs.move_to_end(message_id, last=False)  # no event yet: readers, who come from the end, stop before

    def withdraw(self, ids: Iterable[str]) -> None:
        """Expected calls that did not come."""
        for message_id in ids:
            del self._logs[message_id]

    def forget(self, ids: Iterable[str]) -> None:
        """Released messages. Of those that have not ended, the end is kept for a while when it comes."""
        for message_id in ids:
            log = self._logs.get(message_id)
            if log is not None and log.ended is not None:
                self._drop(message_id)
            elif log is not None:
                log.released = True

    def _drop(self, message_id: str) -> None:
        if self._logs.pop(message_id, None) is not None:  # else it was released once more
            self.forgotten += 1
            self._long.discard(message_id)
            self._due = self.cursor  # who waits for it has to see that it is gone

    def known(self, message_id: str) -> bool:
        return message_id in self._logs

    def before(self, ids: Iterable[str]) -> int:
        """The newest cursor from which a reader misses nothing of these calls."""
        return min((self._logs[i].first for i in ids if i in self._logs), default=self.cursor)

    def record(self, events: Sequence[Event]) -> None:
        said: set[str] = set()  # who has new tokens,
        told: set[str] = set()  # and who something else
        before = self.cursor
        for event in events:
            self.cursor += 1
            if isinstance(event, Closed):
                self.closed = True
                self._due = self.cursor
                continue
            log = self._logs.get(event.id)
            if log is None:
                continue  # forgotten
            (said if isinstance(event, TokensAdded) else told).add(event.id)
            log.latest = self.cursor
            self._logs.move_to_end(event.id)
            if isinstance(event, StateChanged):
                log.state, log.state_cursor = event.state, self.cursor
            elif isinstance(event, TokensAdded):
                log.deltas.add(self.cursor, event)
            elif isinstance(event, Restarted):
                log.deltas = Deltas(self._tokenizer, log.decode)
                log.restarted = _restarted(event, self.cursor)
            else:
                log.ended = End(event, self.cursor, self._tokenizer)
                if log.ended.long:
                    self._long.add(event.id)
                log.decode, log.deltas, log.restarted = None, Deltas(self._tokenizer, None), None
                if log.released:
                    self._leaving.append(event.id)
        if self._pace is not None and said:
            said = self._hold(self._pace, said - told, before)
        while len(self._leaving) > LEAVING_KEPT:
            self._drop(self._leaving.popleft())
        if said or told or self.closed:
            self._wake(said, told)

    def _hold(self, pace: Pace, said: Set[str], before: int) -> set[str]:
        """Keeps back those that had tokens before. Returns the others."""
        begun = {message_id for message_id in said if self._logs[message_id].deltas.first > before}
        more = said - begun
        if more and not self._held:
            pace.keep(self._release)
        self._held |= more
        return begun

    def _release(self) -> None:
        held, self._held = self._held, set()
        self._due = self.cursor
        self._wake(held, set())

    def _wake(self, said: Set[str], told: Set[str]) -> None:
        """Those whom it concerns: waking a reader costs a good part of a frame."""
        waiting, self._waiting = self._waiting, []
        either = said | told
        for reader in waiting:
            if reader.woken.done():  # it was cancelled
                continue
            news = either if reader.deltas else told
            if self.closed or (not reader.ids.isdisjoint(news) if reader.ids else news):
                reader.woken.set_result(None)
            else:
                self._waiting.append(reader)

    def read(self, after: int, ids: Collection[str] = (), *, deltas: bool = True) -> list[pb.Event]:
        """Everything after the cursor, of all calls or those named, in order."""
        events: list[pb.Event] = []
        for message_id in ids if 0 < len(ids) <= FEW else self._newer(after):
            log = self._logs.get(message_id)
            if log is None or log.latest <= after or (ids and message_id not in ids):
                continue
            if log.ended is not None:
                events.append(log.ended.told())
                continue
            if log.state_cursor > after:
                events.append(pb.Event(cursor=log.state_cursor, id=message_id, state=STATES[log.state]))
            if log.restarted is not None and log.restarted.cursor > after:
                events.append(log.restarted)
            if deltas and (delta := log.deltas.after(after, message_id)) is not None:
                events.append(delta)
        if len(events) > 1:
            events.sort(key=lambda event: event.cursor)
        return events

    async def prepare(self, after: int, ids: Collection[str] = ()) -> None:
        """Makes what `read` would take long for."""
        if not self._long:
            return
        for message_id in ids if 0 < len(ids) <= FEW else [*self._newer(after)]:
            log = self._logs.get(message_id)
            if log is None or log.latest <= after or (ids and message_id not in ids):
                continue
            if log.ended is not None and log.ended.long:
                await log.ended.make()
                self._long.discard(message_id)

    def _newer(self, after: int) -> Iterator[str]:
        """The calls with an event after the cursor."""
        for message_id in reversed(self._logs):
            if self._logs[message_id].latest <= after:
                return
            yield message_id

    def has_ended(self, message_id: str) -> bool:
        log = self._logs.get(message_id)
        return log is not None and log.ended is not None

    def ended(self, message_id: str) -> pb.Event | None:
        """How the call has ended, if it has and is known."""
        log = self._logs.get(message_id)
        return log.ended.told() if log is not None and log.ended is not None else None

    def attach(self, ids: Iterable[str], accepted: Collection[str]) -> None:
        """A Run reads these calls; of those it has submitted itself it is the owner."""
        for message_id in ids:
            log = self._logs[message_id]
            log.runs += 1
            if message_id in accepted:
                log.own = False

    def detach(self, ids: Iterable[str]) -> list[str]:
        """A Run has ended. Returns its calls that have not and that no other Run reads: they were submitted by Runs."""
        orphans: list[str] = []
        for message_id in ids:
            log = self._logs.get(message_id)
            if log is not None:
                log.runs -= 1
                if log.ended is None and not log.runs and not log.own:
                    orphans.append(message_id)
        return orphans

    def due(self, after: int, ids: Collection[str] = ()) -> bool:
        """Whether somebody who has read up to the cursor, which is not the newest, reads on at once."""
        if self._pace is None or self._due > after:
            return True
        for message_id in ids if 0 < len(ids) <= FEW else self._newer(after):
            log = self._logs.get(message_id)
            if log is None or log.latest <= after or (ids and message_id not in ids):
                continue
            restarted = log.restarted is not None and log.restarted.cursor > after
            if log.ended is not None or log.state_cursor > after or restarted or log.deltas.first > after:
                return True
        return False

    def changed(self, ids: Set[str] = frozenset(), *, deltas: bool = True) -> asyncio.Future[None]:
        """Done when something is recorded that `read` has for the same `ids` and `deltas`, or the journal is closed;
        for more tokens of a call, when the pace allows it."""
        woken = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(woken, ids, deltas))
        return woken


class Journals:
    """The journals of all open workflows, and the totals of those closed lately."""

    def __init__(self, tokenizer: Tokenizer, pace: Pace | None = None) -> None:
        self._tokenizer = tokenizer
        self._pace = pace
        self._open: dict[Key, Journal] = {}
        self._totals: OrderedDict[Key, Receipt] = OrderedDict()

    def open(self, key: Key) -> Journal:
        journal = self._open.get(key)
        if journal is None:
            journal = self._open[key] = Journal(self._tokenizer, self._pace)
        return journal

    def get(self, key: Key) -> Journal | None:
        return self._open.get(key)

    def total(self, key: Key) -> Receipt | None:
        """Of a workflow that was closed, if that is not too long ago."""
        return self._totals.get(key)

    def record(self, key: Key, events: Sequence[Event]) -> None:
        journal = self._open.get(key)
        if journal is None:
            return
        journal.record(events)
        if journal.closed:
            del self._open[key]
            self._totals[key] = next(event.total for event in events if isinstance(event, Closed))
            while len(self._totals) > CLOSED_KEPT:
                self._totals.popitem(last=False)


def _restarted(event: Restarted, cursor: int) -> pb.Event:
    restarted = pb.Restarted(attempt=event.attempt, error=failure_message(event.failure))
    return pb.Event(cursor=cursor, id=event.id, restarted=restarted)
