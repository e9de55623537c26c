"""The Autobahn cases against hub's WebSocket layer: ``python -m tests.fuzz.autobahn``.

They need a server that sends every message back, and hub answers in its own way. So an echo
stands where hub's session is; the handshake, the frames, the fragments, the control frames, the
limits and the closing handshake are hub's. kosoku (PyPI) runs the cases.

Binary messages cannot be sent back: hub does not keep them, and answers that it wants text. Those
cases, and those on compression, which hub does not offer, are not applicable.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import kosoku
from websockets.protocol import OPEN

from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.terms import rules_with
from hub.dispatch.upstream import Upstream
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.errors import HubError
from hub.hub import Hub
from hub.server.app import Server
from hub.server.frames import text_frame
from hub.server.session import Session
from hub.server.websocket import Connection
from hub.store.memory import MemoryStore

MAX_MESSAGE = 32 << 20
"""Bytes; the largest case has 16 MiB."""
KNOWN = {
    "7.1.5": "to the websockets library a close frame inside of a message breaks the protocol",
}
"""Cases that fail, and why nothing is done about it."""
ACCEPTED = ("OK", "NON-STRICT", "INFORMATIONAL")
COMPRESSED = ("12.*", "13.*")


class _Echo:
    """Stands where the session is. Says everything back."""

    idle = True
    lanes = (0, 0)

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def receive(self, message: Callable[[], bytes]) -> None:
        """Raises ``UnicodeDecodeError``, as a session does."""
        data = message()
        data.decode()
        self._write(text_frame(data))

    def refuse(self, error: HubError) -> None:
        """It was binary."""
        self._write(text_frame(error.message.encode()))

    def close(self) -> None: ...


class EchoConnection(Connection):
    """A connection with an echo for its session."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._transport is not None
        self._session = cast(Session, _Echo(self._transport.write))

    def keep_alive(self, lifetime: float) -> None:
        """Without pings, which the cases do not expect."""

    def _message(self, message: bytes | HubError) -> None:
        if isinstance(message, HubError):
            super()._message(message)
        elif self._protocol.state is OPEN:
            # Not by way of the parser, which would look for JSON.
            self._receive(cast(Any, partial(bytes, message)))


class EchoServer(Server):
    """A server whose connections echo."""

    connection_type = EchoConnection


async def results(include: list[str] | None = None) -> list[Any]:
    """kosoku's results of the cases."""
    engine = SimEngine(PROFILES["h100-8b"])
    hub = Hub(Dispatcher([Upstream(engine, 1)], rules_with()), MemoryStore())
    await hub.store.start(time.time())
    server = EchoServer(hub, max_message=MAX_MESSAGE)
    port = await server.start()
    try:
        found = await kosoku.run_fuzzingclient(
            f"ws://127.0.0.1:{port}/v1/responses", include, list(COMPRESSED)
        )
    except kosoku.FailureError as failure:
        found = failure.results
    finally:
        await server.stop(drain=0)
        await engine.close()
    return list(found)


def is_binary(result: Any) -> bool:
    """Whether a case wants a binary message back. Those that are timed say so in words."""
    if "binary message" in result.description:
        return True
    events = [event for some in result.expected.values() for event in some]
    return any(event[0] == "message" and event[2] for event in events)


def main() -> int:
    """Print a table by group, and each case that failed."""
    found = asyncio.run(results(sys.argv[1:] or None))
    groups: dict[str, Counter[str]] = {}
    failed = []
    for one in found:
        verdict = one.behavior.value
        good = verdict in ACCEPTED and one.behavior_close.value in ACCEPTED
        word = "passed" if good else "not applicable" if is_binary(one) else "failed"
        if word == "failed" and one.case_id in KNOWN:
            word = "known"
        groups.setdefault(one.case_id.partition(".")[0], Counter())[word] += 1
        groups[one.case_id.partition(".")[0]][verdict] += 1
        if word == "failed":
            failed.append(one)
    print("| group | passed | non-strict | informational | failed | known | not applicable |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for group, count in groups.items():
        words = ("passed", "NON-STRICT", "INFORMATIONAL", "failed", "known", "not applicable")
        print(f"| {group} |", " | ".join(str(count[word]) for word in words), "|")
    for one in failed:
        print(f"\n{one.case_id} {one.behavior.value}, close {one.behavior_close.value}")
        print(one.description, one.expectation, one.result, one.result_close, sep="\n")
        print("received", str(one.received)[:300])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
