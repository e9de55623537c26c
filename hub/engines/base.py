"""The interface between hub and whatever generates tokens, in prose.

An *engine* turns one ``Generation`` into calls on one ``Sink``. hub has two: a client of any
OpenAI-compatible model server (``upstream.py``) and a simulated one (``sim.py``).

The contract of ``generate``:

1. It calls the sink in the order in which the model said things, from one task, and never after it
   has returned or raised.
2. A normal end is: ``finish(reason)`` exactly once, ``usage(...)`` at most once before or after it
   (model servers send usage last), then return.
3. A failure is a ``HubError`` from the table: what the client did wrong, what is full, what the
   model server broke. Anything else that it raises counts as a defect of hub.
4. If the task is cancelled, the model server stops working for it at once: the engine closes what
   it holds open before it lets ``CancelledError`` go on.
5. It holds no more than one chunk of the upstream's in memory.

A sink's methods are plain calls: they number, log and wake readers, and never wait. A slow reader
is the reader's business, never the engine's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hub.api.requests import Generation, Json, Usage
from hub.errors import HubError


@dataclass(frozen=True, slots=True)
class Load:
    """What a model server says of itself; ``None`` where it does not say."""

    slots: int | None = None
    """How many requests it runs at once."""
    kv_tokens: int | None = None
    """Tokens of KV cache that all its requests share."""
    running: int | None = None
    """Requests that it runs."""
    waiting: int | None = None
    """Requests that it holds without running them."""
    kv_used: float | None = None
    """How much of its KV cache is in use, from 0 to 1."""


class Sink(Protocol):
    """Where an engine puts what the model says. See the contract above."""

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        """Visible text. ``logprobs`` are Chat Completions' ``logprobs.content`` for this text."""
        ...

    def reasoning(self, delta: str) -> None:
        """Raw reasoning text."""
        ...

    def refusal(self, delta: str) -> None:
        """Text of a refusal."""
        ...

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        """A piece of the tool call number ``index``.

        The first piece of an index opens the call; ``call_id`` and ``name`` may come with it only.
        """
        ...

    def usage(self, usage: Usage) -> None:
        """The token counts; the last call wins."""
        ...

    def finish(self, reason: str) -> None:
        """Why the model stopped: ``stop``, ``length``, ``tool_calls`` or ``content_filter``."""
        ...


PAUSE = 0.25
"""Seconds of silence in the middle of an answer from which on it is noted as a pause: several
times as long as a decode step, and long enough for its reader to see it."""


class Notes(Protocol):
    """What an engine may tell beside the answer, for the response's ledger."""

    def mark(self, name: str) -> None:
        """Once each: the server took the connection (``connected``), its answer begins
        (``first_byte``)."""
        ...

    def pause(self, seconds: float) -> None:
        """The server goes on after so long a silence, ``PAUSE`` or more. Before the sink hears
        what it says."""
        ...

    def timings(self, prompt: float, predicted: float) -> None:
        """By the server's own clock, in ms: how long the first token took, and all others."""
        ...


class Unnoted:
    """For a sink that does not want to know. Implements ``Notes``."""

    def mark(self, name: str) -> None: ...
    def pause(self, seconds: float) -> None: ...
    def timings(self, prompt: float, predicted: float) -> None: ...


UNNOTED = Unnoted()


class _Several:
    """The notes of an array: what is told of its answer holds for all."""

    def __init__(self, notes: Sequence[Notes]) -> None:
        self._notes = notes

    def mark(self, name: str) -> None:
        for one in self._notes:
            one.mark(name)

    def pause(self, seconds: float) -> None:
        for one in self._notes:
            one.pause(seconds)

    def timings(self, prompt: float, predicted: float) -> None:
        for one in self._notes:
            one.timings(prompt, predicted)


def notes_of(*sinks: Sink) -> Notes:
    """Where to tell it: the sinks' ``notes``, if they have any."""
    found: list[Notes] = [getattr(sink, "notes", UNNOTED) for sink in sinks]
    return found[0] if len(found) == 1 else _Several(found)


class Member(Protocol):
    """One of several generations that an engine runs as one array. See ``generate_array``."""

    @property
    def generation(self) -> Generation: ...
    @property
    def sink(self) -> Sink: ...
    @property
    def left(self) -> bool:
        """Whether nobody wants it any more: its sink must not be called."""
        ...

    def done(self, error: HubError | None) -> None:
        """It has ended, as ``generate`` would have returned or raised."""
        ...


class Engine(Protocol):
    """See the contract at the top of this file."""

    name: str
    """What everybody knows it by, clients, too: no address, and nothing else that only whoever runs
    hub should know."""

    slots: int | None
    """How many requests it runs at once, if it is known: the dispatcher's first window."""

    continues: bool
    """Whether it can go on with an assistant's unfinished text (``Generation.continues``)."""

    arrays: bool
    """Whether it can run raw completions as one array (``generate_array``)."""

    def serves(self, model: str) -> bool | None:
        """Whether it serves a model by that name; ``None`` if only asking it would tell.

        The empty name is its default model, which it always serves. Plain and cheap: no I/O.
        """
        ...

    async def generate(self, generation: Generation, sink: Sink) -> None:
        """Run one generation to its end. See the contract."""
        ...

    async def generate_array(self, members: Sequence[Member]) -> None:
        """Run raw completions without a gap, that differ in their prompt only, as one request.

        Calls ``done`` of every member exactly once, each when it has ended; what is wrong with one
        of them, or that it has ``left``, changes nothing for the others. Never raises a
        ``HubError``. Cancelling the task stops all of them, without ``done``.
        """
        ...

    async def probe(self) -> Load:
        """Ask how it is. Empty if it does not say; ``HubError`` if it cannot be asked."""
        ...

    async def models(self) -> list[str]:
        """The models that it serves, default first. Raises ``HubError`` if it cannot be asked."""
        ...

    async def close(self) -> None:
        """Release what it holds. No ``generate`` is running any more."""
        ...
