"""Async tests in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

from hub.clock import run_virtual

P = ParamSpec("P")


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in virtual time. What a callback raises fails it, too: asyncio only logs
    that."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        failures: list[BaseException] = []

        def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            failures.append(context.get("exception") or RuntimeError(context["message"]))

        async def checked() -> None:
            asyncio.get_running_loop().set_exception_handler(note)
            await test(*args, **kwargs)

        try:
            run_virtual(checked())
        finally:
            # The cause, rather than what the test made of it.
            if failures:
                raise failures[0]

    return run
