"""Finding a model server on this machine, so that hub starts without configuration."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from hub.engines.chat_wire import model_names
from hub.engines.http_client import FAILURES, open_session, read_body
from hub.errors import HubError

MAX_LIST = 1 << 20
"""Bytes of a list of models that are read."""

LOCAL_SERVERS: tuple[tuple[str, str], ...] = (
    ("llama.cpp", "http://127.0.0.1:8080"),
    ("Ollama", "http://127.0.0.1:11434"),
    ("LM Studio", "http://127.0.0.1:1234"),
    ("vLLM", "http://127.0.0.1:8000"),
)
"""The usual names and addresses, the preferred first. In numbers, since ``localhost`` may mean
another address family than the one that the server listens on."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model server that answers."""

    name: str
    """What it probably is, by its port."""
    url: str
    """Its address, without ``/v1``."""
    models: tuple[str, ...]
    """What it serves, default first; at least one."""


async def find_local(
    candidates: Sequence[tuple[str, str]] = LOCAL_SERVERS,
    timeout: float = 0.5,  # noqa: ASYNC109 - of each candidate, which no caller's timeout can be
) -> Found | None:
    """The first of ``candidates`` (names and addresses) that serves a model, or ``None``.

    All are asked at once and each has ``timeout`` seconds; the order of the list decides, not the
    order of the answers. Never raises: whatever is not a model server is not found.
    """
    async with open_session(connect_timeout=timeout, idle_timeout=timeout) as session:

        async def ask(name: str, url: str) -> Found | None:
            try:
                async with (
                    asyncio.timeout(timeout),
                    session.get(f"{url}/v1/models", allow_redirects=False) as response,
                ):
                    # hub answers this question too, and must not become its own model server.
                    itself = response.headers.get("Server", "").lower().startswith("hub")
                    if response.status != 200 or itself:
                        return None
                    models = model_names(await read_body(response, MAX_LIST))
            except (*FAILURES, HubError):
                return None
            return Found(name, url, tuple(models)) if models else None

        asking = [asyncio.create_task(ask(name, url)) for name, url in candidates]
        try:
            for answer in asking:
                found = await answer
                if found is not None:
                    return found
            return None
        finally:
            for answer in asking:
                answer.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
