"""A text that is predicted, and those who want it from somewhere on. See ``completer.py``."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hub.api.infill import Kind
from hub.api.recorder import TERMINAL_EVENTS
from hub.api.requests import Generation, Request
from hub.live import Live

_FREE = ("t_max_predict_ms", "t_max_prompt_ms", "cache_prompt")
"""Parameters that say nothing about the text itself."""


class Prediction:
    """A text that is generated, or was."""

    def __init__(self, live: Live, kind: Kind, on_news: Callable[["Prediction"], None]) -> None:
        self.live: Live | None = live
        """``None`` when nothing more can come."""
        self.kind = kind
        request = live.recorder.request
        files = request.generation.files
        # Whatever else there was to draw on: it is much, and need not be the same.
        self.request = replace(request, generation=replace(request.generation, files=()))
        self.prompt = prompt_of(request)
        self.text = ""
        self.ended = False
        self.failed = False
        """It has ended, and not by what it says."""
        self._asked = live.asked - sum(len(one.text) for one in files)
        self.callers: list[Caller] = []
        self.finish = "stop"
        self.reason = "stop"
        """Why it ended: the model's finish reason, or the rule by which hub ended it."""
        self._cursor = -1
        self._news = on_news
        self._due = False
        live.log.subscribe(self._wake)
        if live.log.sealed:
            # Its time was over before it was asked for.
            self._wake()

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return self._asked + len(self.text)

    def agrees(self, request: Request, kind: Kind, *, alternatives: bool = True) -> bool:
        """Whether a request may follow it, as far as can be seen by now. Rules 2 and 3."""
        if self.failed or (kind == "foreground" and self._behind):
            return False
        prompt = prompt_of(request)
        if not prompt.startswith(self.prompt) or _rest(request) != _rest(self.request):
            return False
        typed = prompt[len(self.prompt) :]
        another = alternatives or self.ended
        if another and not (typed or self.kind != kind or _certain(request.generation)):
            return False
        if self.ended:
            return len(self.text) > len(typed) and self.text.startswith(typed)
        return self.text.startswith(typed) or typed.startswith(self.text)

    @property
    def _behind(self) -> bool:
        """Whether it waits behind all that somebody waits for."""
        live = self.live
        return self.kind != "foreground" and live is not None and not live.recorder.dispatched

    def reachable(self, prompt: str) -> bool:
        """Whether somebody at ``prompt`` may yet come to where it is of use."""
        whole = self.prompt + self.text
        return whole.startswith(prompt) or prompt.startswith(whole)

    def read(self) -> None:
        """Take in what is new."""
        self._due = False
        live = self.live
        if live is None:
            return
        for event in live.log.read(self._cursor, merge=True):
            self._cursor = event.seq
            if event.type == "response.output_text.delta":
                self.text += event.delta
            elif event.type in TERMINAL_EVENTS:
                self.ended = True
                self.failed = live.recorder.status in ("failed", "cancelled")
                self.finish = live.recorder.finish_reason
                self.reason = live.stopped or self.finish

    def let_go(self) -> None:
        """Follow it no more."""
        if self.live is not None:
            self.live.log.unsubscribe(self._wake)
            self.live = None

    def _wake(self) -> None:
        if not self._due:
            self._due = True
            # Not from within the engine that is just saying something.
            asyncio.get_running_loop().call_soon(self._news, self)


class Caller:
    """Somebody who asked. ``live`` is its response; read it, then ``Completer.leave``."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.prediction: Prediction | None = None
        self.reused = False
        """It follows what was asked for before."""
        self.superseded = False
        """Nobody wants its text any more, whatever of it was told."""
        self._typed = ""
        self._told = 0

    @property
    def reason(self) -> str:
        """Why it ended, in one word, if it has."""
        if self.superseded:
            return "superseded"
        if self.live.recorder.status == "cancelled":
            return "cancelled"
        return self.prediction.reason if self.prediction else self.live.recorder.finish_reason

    def follow(self, prediction: Prediction) -> None:
        self.prediction = prediction
        prediction.callers.append(self)
        self._typed = prompt_of(self.live.recorder.request)[len(prediction.prompt) :]
        self._told = 0

    def leave(self) -> Prediction | None:
        """Follow no more. Gives what it has followed."""
        prediction = self.prediction
        if prediction is not None and self in prediction.callers:
            prediction.callers.remove(self)
            return prediction
        return None

    def advance(self) -> bool:
        """Tell what is new. False if it has to be asked for elsewhere."""
        prediction, live = self.prediction, self.live
        assert prediction is not None
        assert prediction.live is not None
        text, typed = prediction.text, self._typed
        if not self._told:
            if typed and typed.startswith(text) and not prediction.failed:
                return not prediction.ended
            if not (text.startswith(typed) or typed.startswith(text)):
                return False
            self._told = len(typed)
        if len(text) > self._told:
            live.ledger.mark("first_token")
            live.sink.text(text[self._told :])
            self._told = len(text)
        if prediction.ended:
            self._end(prediction, prediction.live)
        return True

    def answer(self, prediction: Prediction) -> None:
        """Tell all at once what a prediction that is over has said from here on."""
        self.follow(prediction)
        self.live.started()
        self.live.ledger.mark("first_token")
        self.live.sink.text(prediction.text[len(self._typed) :])
        self.leave()
        self._finish(prediction)

    def _end(self, prediction: Prediction, source: Live) -> None:
        recorder = source.recorder
        if not self.reused:
            self.live.ledger.adopt(source.ledger)
        if recorder.error is not None:
            self.live.failed(recorder.error)
        elif recorder.status == "cancelled":
            self.live.cancelled()
        else:
            if recorder.reported_usage is not None and not self.reused:
                self.live.sink.usage(recorder.reported_usage)
            self._finish(prediction)

    def _finish(self, prediction: Prediction) -> None:
        self.live.ledger.mark("last_token")
        self.live.sink.finish(prediction.finish)
        self.live.completed()


def prompt_of(request: Request) -> str:
    """What is before the cursor."""
    return request.generation.prompt or ""


def _rest(request: Request) -> Any:
    """What must be the same for one text to be an answer to both."""
    generation, rules = request.generation, request.early_stop
    extra = {name: value for name, value in generation.extra.items() if name not in _FREE}
    return (
        request.model,
        replace(generation, prompt="", files=(), extra=extra),
        rules and replace(rules, budget=None),
    )


def _certain(generation: Generation) -> bool:
    """Whether the same request gets the same text."""
    extra = generation.extra
    return extra.get("temperature") == 0 or extra.get("seed") is not None
