"""Calls of Redis: many on their way at once, carried out in the order in which they were made.

A call is packed at once, and everything that one turn of the event loop has made is written
together. *Patient* calls, one for every token, wait for others until ``GAP`` after the last write;
what comes after a pause is not held up. The answers come in the same order.

When the connection is lost, nobody knows which of the calls that were sent have been carried out.
Those that may be repeated are sent again, in their order, on the next connection; the others fail.
A call that has waited for ``PATIENCE`` fails, and takes the connection with it: so it cannot be
carried out later. While Redis has been out of reach for that long, calls fail at once. So what
waits is bounded in time, and by ``MOST_WAITING`` in number.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import hiredis
from hiredis import pack_command
from redis.asyncio.connection import Connection
from redis.exceptions import RedisError

from hub.errors import HubError
from hub.store.base import PATIENCE
from hub.store.redis_link import Address, Link, ask
from hub.store.redis_recent import Recent
from hub.store.redis_scripts import SCRIPTS

T = TypeVar("T")

logger = logging.getLogger("hub.store.redis")

MOST_WAITING = 65_536
"""Calls that wait for an answer; more are refused."""
GAP = 0.002
"""Seconds from one write to the next for patient calls. A write costs this process and Redis more
than what is in it: a few system calls, and waking up the other one, twice."""
LATE = 0.1
"""Seconds of lateness from which a timer tells more of this process than of Redis."""

REASONS = {
    "OOM": "Redis is out of memory",
    "READONLY": "Redis is a replica, or has become one",
    "LOADING": "Redis is reading its files after a start",
    "MASTERDOWN": "Redis has lost its primary",
    "MISCONF": "Redis cannot write to its disk",
    "NOREPLICAS": "Redis has too few replicas",
    "BUSY": "Redis is busy with a script",
    "NOPERM": "Redis does not permit it to its user",
}
"""The first word of an answer -> what it means, for people."""


def out_of_reach() -> HubError:
    """The error of a call that could not be made."""
    return unavailable("Redis is out of reach")


def unavailable(reason: str) -> HubError:
    """The error of a call that Redis has refused."""
    return HubError(
        "store_unavailable", f"Responses cannot be stored now: {reason}.", retry_after=1.0
    )


class _Call:
    __slots__ = ("again", "future", "id", "packed", "since", "understand")

    def __init__(
        self,
        packed: bytes,
        understand: Callable[[Any], Any],
        future: asyncio.Future[Any],
        since: float,
        again: bool,
        id: str = "",
    ) -> None:
        self.id = id
        self.packed = packed
        self.understand = understand
        self.future = future
        self.since = since
        self.again = again

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Calls:
    """See the top of this file. For one event loop."""

    def __init__(self, address: Address, name: str) -> None:
        self._link = Link(address, name, self)
        self._recent = Recent()
        self._run = b""
        """Redis' name for itself since its start."""
        self._restarted = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[_Call] = deque()
        """Everything that has no answer. The first ``_sent`` have been written."""
        self._sent = 0
        self._unwritten: list[bytes] = []
        self._unknown: list[_Call] = []
        """Those whose script Redis does not know, and those behind them; what waits comes later."""
        self._flushing: asyncio.Handle | None = None
        self._at_leisure = False
        """Only patient calls are to be written."""
        self._written_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._closed = True
        self.made = 0
        self.answered = 0
        self.writes = 0
        self.last_wait = 0.0
        """Seconds from the last answered call to its answer."""

    async def start(self) -> None:
        """Connect. Raises ``RedisError`` or ``OSError``."""
        self._loop = asyncio.get_running_loop()
        await self._link.start()
        self._closed = False

    async def close(self) -> None:
        """Finish what was asked for, within ``PATIENCE``, and disconnect."""
        self._closed = True
        if self._waiting or self._unknown:
            last = [call.future for call in self._waiting] + [c.future for c in self._unknown]
            await asyncio.wait(last, timeout=PATIENCE)
        await self._link.close()
        for handle in (self._timer, self._flushing):
            if handle is not None:
                handle.cancel()
        self.down()
        self._fail_all()

    @property
    def waiting(self) -> int:
        """Calls without an answer."""
        return len(self._waiting) + len(self._unknown)

    @property
    def lag(self) -> float:
        """Seconds for which the oldest of them has been waiting, or Redis has been out of reach."""
        if self._loop is None:
            return 0.0
        now = self._loop.time()
        since = [calls[0].since for calls in (self._waiting, self._unknown) if calls]
        if self._link.down_since is not None and not self._closed:
            since.append(self._link.down_since)
        return now - min(since, default=now)

    def call(
        self,
        command: tuple[Any, ...],
        understand: Callable[[Any], T],
        *,
        again: bool = True,
        patient: bool = False,
        changes: str = "",
    ) -> asyncio.Future[T]:
        """Make a call in its turn. ``understand`` makes the result of the answer, in its turn too;
        what it raises is the call's error. ``again``: it may be carried out twice. ``patient``: see
        above. ``changes``: the id of what it changes, if that is not to be lost with Redis' last
        seconds."""
        loop = self._loop or asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        now = loop.time()
        down = self._link.down_since
        if self._closed:
            future.set_exception(HubError("store_unavailable", "The store is closed."))
        elif down is not None and now - down > PATIENCE:
            future.set_exception(out_of_reach())
        elif len(self._waiting) >= MOST_WAITING:
            future.set_exception(unavailable("too many calls wait for Redis"))
        else:
            packed = pack_command(command)
            self.made += 1
            self._waiting.append(_Call(packed, understand, future, now, again, changes))
            if self._link.is_up and not self._unknown:
                self._unwritten.append(packed)
                if self._flushing is None or (self._at_leisure and not patient):
                    self._flush_soon(loop, now, patient=patient)
            if self._timer is None:
                self._timer = loop.call_at(now + PATIENCE, self._check, now + PATIENCE)
        return future

    def _flush_soon(self, loop: asyncio.AbstractEventLoop, now: float, *, patient: bool) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
        due = self._written_at + GAP
        self._at_leisure = patient and now < due
        if self._at_leisure:
            self._flushing = loop.call_at(due, self._flush)
        else:
            self._flushing = loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        self._at_leisure = False
        if self._unwritten:
            assert self._loop is not None
            self._written_at = self._loop.time()
            self._link.write(b"".join(self._unwritten))
            self._unwritten = []
            self._sent = len(self._waiting)
            self.writes += 1

    def _send_again(self) -> None:
        """Write everything that waits, none of which is on its way."""
        if self._unknown:
            self._waiting.extendleft(reversed(self._unknown))
            self._unknown = []
        self._unwritten = [call.packed for call in self._waiting]
        self._sent = 0
        self._flush()

    # What the link tells.

    async def prepare(self, connection: Connection) -> None:
        loads = [("SCRIPT", "LOAD", script.text) for script in SCRIPTS]
        about, *loaded = await ask(connection, ("INFO", "server"), *loads)
        for answer in loaded:
            if isinstance(answer, RedisError):
                raise answer
        found = re.search(rb"run_id:(\w+)", about) if isinstance(about, bytes) else None
        run = self._run if found is None else found[1]
        self._restarted = self._restarted or bool(self._run and run != self._run)
        self._run = run

    def up(self) -> None:
        if self._restarted:
            self._restarted = False
            changes = [self._change(packed) for packed in self._recent.all()]
            self._waiting.extendleft(reversed(changes))
            self.made += len(changes)
        self._send_again()

    def _change(self, packed: bytes) -> _Call:
        """A call that was made before. What becomes of it is of no interest."""
        assert self._loop is not None
        future: asyncio.Future[None] = self._loop.create_future()
        future.add_done_callback(asyncio.Future.exception)
        return _Call(packed, _ignore, future, self._loop.time(), True)

    def forget(self, id: str) -> None:
        """Another node has deleted it: it is not to be made once more."""
        assert self._loop is not None
        self._recent.forget(self._loop.time(), id)

    def remember(self, id: str, command: tuple[Any, ...]) -> None:
        """What a call has done beside others can be done once more by this command."""
        assert self._loop is not None
        self._recent.add(self._loop.time(), id, pack_command(command))

    def heard(self, reply: Any) -> None:
        assert self._sent > 0, "every answer is that of a call"
        call = self._waiting.popleft()
        self._sent -= 1
        is_error = isinstance(reply, hiredis.ReplyError)
        if (is_error and str(reply).startswith("NOSCRIPT")) or (self._unknown and call.again):
            # What comes behind one that was not carried out is to be carried out behind it.
            self._unknown.append(call)
        elif is_error:
            self._answer(call)
            self._refuse(call, str(reply))
        else:
            self._answer(call)
            assert self._loop is not None
            try:
                result = call.understand(reply)
            except Exception as error:
                # Boundary: what the contract refuses, and what a defect makes of an answer, are
                # this caller's. The others go on.
                call.fail(error)
            else:
                if call.id:
                    self._recent.add(self._loop.time(), call.id, call.packed)
                if not call.future.done():  # Whoever awaited it may have been cancelled.
                    call.future.set_result(result)
        if self._unknown and not self._sent:
            self._load()

    def _answer(self, call: _Call) -> None:
        assert self._loop is not None
        self.answered += 1
        self.last_wait = self._loop.time() - call.since

    def _refuse(self, call: _Call, text: str) -> None:
        word = text.split(" ", 1)[0]
        reason = REASONS.get(word)
        if reason is None:
            logger.error("Redis has refused a call: %s", text)
            reason = "Redis has refused it"
        call.fail(unavailable(reason))
        if word == "READONLY":
            # The address may be that of another primary by now.
            self._link.drop()

    def _load(self) -> None:
        """Everything that was on its way has its answer. Redis forgets scripts at ``SCRIPT FLUSH``;
        nothing is sent meanwhile, so that the order stays."""
        assert self._loop is not None
        since = self._unknown[0].since
        loads: list[_Call] = []
        for script in SCRIPTS:
            load: tuple[Any, ...] = "SCRIPT", "LOAD", script.text
            loaded = self._loop.create_future()
            loads.append(_Call(pack_command(load), _ignore, loaded, since, True))
        self.made += len(loads)
        self._unknown[:0] = loads
        self._send_again()

    def down(self) -> None:
        # Those of an unknown script have not been carried out.
        kept = deque(self._unknown)
        self._unknown = []
        for place, call in enumerate(self._waiting):
            if call.again or place >= self._sent:
                kept.append(call)
            else:
                self.answered += 1
                call.fail(out_of_reach())
        self._waiting = kept
        self._sent = 0
        self._unwritten = []

    # Patience.

    def _check(self, due: float) -> None:
        assert self._loop is not None
        self._timer = None
        now = self._loop.time()
        if now - due > LATE:
            # It is this process that was late, and answers may be there that it has not read.
            self._timer = self._loop.call_at(now + LATE, self._check, now + LATE)
            return
        oldest = self._oldest()
        if oldest is not None and now - oldest >= PATIENCE:
            self._link.drop()
            self._fail_all(now - PATIENCE)
            oldest = self._oldest()
        if oldest is not None:
            due = max(oldest + PATIENCE, now)
            self._timer = self._loop.call_at(due, self._check, due)

    def _oldest(self) -> float | None:
        calls: Sequence[_Call] = self._unknown or self._waiting
        return calls[0].since if calls else None

    def _fail_all(self, until: float = float("inf")) -> None:
        """Those that were made until then, none of which is on its way."""
        while self._waiting and self._waiting[0].since <= until:
            self.answered += 1
            self._waiting.popleft().fail(out_of_reach())


def _ignore(reply: Any) -> None:
    return None
