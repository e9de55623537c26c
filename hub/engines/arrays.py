"""One streamed request for many raw completions: ``prompt`` is an array, the events interleave.

What servers do with it (llama.cpp, vLLM, SGLang, TGI), and what becomes of it:

- Every choice says by its ``index`` whose it is, and every member ends with a ``finish_reason`` of
  its own. Order is promised within a member only.
- A choice without an index, or with one that nobody has, means that the server counts otherwise:
  nobody can tell whose text it is, so all that have not ended fail.
- A member's usage comes with its last chunk (llama.cpp), or not at all: a sum for all of them
  (vLLM, in a chunk without choices) says nothing about one, and is not taken apart.
- An error is mostly everybody's: the request is refused as a whole, or an event without an index
  ends the stream. Only an event with an index is one member's.
- One member cannot be cancelled. What is said for one that has left is dropped; only when all have
  left is there nothing to read any more.

No I/O here.
"""

from collections.abc import Sequence

from hub.api.requests import Json
from hub.engines.base import Member
from hub.engines.chat_errors import error_from_event, withhold
from hub.engines.stream_wire import as_array, as_object, broken, decode
from hub.engines.text_wire import TextReader, text_body
from hub.errors import HubError


def array_body(members: Sequence[Member], model: str) -> Json:
    """The body of ``POST /v1/completions`` for generations that differ in their prompt only."""
    assert members[0].generation.suffix is None, "gaps are filled in one by one"
    body = text_body(members[0].generation, model)
    body["prompt"] = [member.generation.prompt for member in members]
    return body


class ArrayReader:
    """Turns the chunks of one stream into calls on the members' sinks, and their ends.

    Call ``feed`` with every event's data, then ``end`` once the stream is over, or ``fail`` with
    what ended it. ``feed`` may raise a ``HubError`` that is everybody's: call ``fail`` with it.
    After either, ``done`` of every member was called, once.
    """

    def __init__(self, members: Sequence[Member], secret: str = "") -> None:
        """``secret`` is what no error may repeat."""
        self._members = members
        self._secret = secret
        self._readers = [TextReader(member.sink) for member in members]
        self._open = set(range(len(members)))
        """The members that have not ended."""
        self._over = False

    @property
    def done(self) -> bool:
        """Nothing that anybody wants can follow."""
        return self._over or not self._open

    @property
    def finished(self) -> bool:
        """Every member has ended."""
        return not self._open

    def feed(self, payload: bytes) -> None:
        """Read one event's data. Whatever follows the end is ignored."""
        if self.done:
            return
        chunk = decode(payload)
        if chunk is None:
            self._over = True
            return
        choices = chunk.get("choices")
        if chunk.get("error") or (chunk.get("object") == "error" and not choices):
            self._error(chunk)
        elif choices:
            choices = as_array(choices, "choices")
            for choice in choices:
                self._choice(as_object(choice, "choices"), chunk if len(choices) == 1 else {})

    def end(self) -> None:
        """The stream is over: whoever has not ended has lost the end of its answer."""
        self.fail(
            HubError(
                "upstream_incomplete_stream",
                "The model server ended the stream before the answer was finished.",
            )
        )

    def fail(self, error: HubError) -> None:
        """Nothing more will come, because of ``error``: end all that have not ended."""
        for index in sorted(self._open):
            # Each its own: an exception that several raise would gather the tracebacks of all.
            copy = HubError(
                error.code, error.message, param=error.param, retry_after=error.retry_after
            )
            self._end(index, copy)

    def _error(self, chunk: Json) -> None:
        """An error event: one member's if it says whose, else everybody's."""
        error, inner = error_from_event(chunk), chunk.get("error")
        index = chunk.get("index")
        if index is None and isinstance(inner, dict):
            index = inner.get("index")
        if not self._known(index):
            raise error
        if index in self._open:
            self._end(index, error)

    def _choice(self, choice: Json, chunk: Json) -> None:
        """Read a choice. ``chunk`` is what it came in if nobody else's did."""
        index = choice.get("index")
        if not self._known(index):
            raise broken("a choice whose index is no member's")
        if index not in self._open:
            return
        member = self._members[index]
        try:
            ended = self._read(member, self._readers[index], choice, chunk)
        except HubError as error:
            # What is wrong with one answer changes nothing for the others.
            self._end(index, error)
        else:
            if ended:
                self._end(index, None)
        if member.left:
            self._over = all(self._members[index].left for index in self._open)

    @staticmethod
    def _read(member: Member, reader: TextReader, choice: Json, chunk: Json) -> bool:
        """Read a member's choice; true if it was its last."""
        if member.left:
            return bool(choice.get("finish_reason"))
        reader.choice(choice)
        # Its own sink may have made it leave.
        if reader.finished and not member.left:
            if chunk.get("usage") is not None:
                reader.count(chunk)
            reader.end()
        return reader.finished

    def _known(self, index: object) -> bool:
        return type(index) is int and 0 <= index < len(self._members)

    def _end(self, index: int, error: HubError | None) -> None:
        self._open.remove(index)
        member = self._members[index]
        if error is not None:
            withhold(self._secret, error)
        member.done(None if member.left else error)
