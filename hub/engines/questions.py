"""Questions to a model server that take no inference: its models, its state."""

import asyncio
from contextlib import suppress
from typing import NamedTuple

from aiohttp import ClientResponse, ClientSession

from hub.engines.chat_errors import error_from_response
from hub.engines.http_client import FAILURES, failure, read_body
from hub.engines.relay import ERROR_BODY_TIMEOUT, MAX_BODY, MAX_ERROR_BODY
from hub.errors import HubError

QUESTION_TIMEOUT = 10.0
"""Seconds for an answer that takes no inference (``/v1/models``, ``/props``)."""


class Answer(NamedTuple):
    """What a server says to a question."""

    status: int
    body: bytes = b""
    refusal: HubError | None = None
    """What a status other than 200 means."""

    @property
    def alive(self) -> bool:
        """Whether a server that answers this may answer prompts: it does not know the question."""
        return 400 <= self.status < 500 and self.status not in (401, 403)


async def ask(session: ClientSession, url: str) -> Answer:
    """A small answer, whatever its status. Raises ``HubError`` if none comes."""
    try:
        async with asyncio.timeout(QUESTION_TIMEOUT):
            response = await session.get(url, allow_redirects=False)
            try:
                if response.status != 200:
                    return Answer(response.status, refusal=await _refusal(response))
                return Answer(response.status, await _whole(response))
            finally:
                response.close()
    except FAILURES as error:
        raise failure(error) from error


async def _refusal(response: ClientResponse) -> HubError:
    """The error that an answer other than 200 means."""
    body = b""
    with suppress(*FAILURES):
        async with asyncio.timeout(ERROR_BODY_TIMEOUT):
            body = await read_body(response, MAX_ERROR_BODY)
    return error_from_response(response.status, body, response.headers.get("Retry-After"))


async def _whole(response: ClientResponse) -> bytes:
    body = await read_body(response, MAX_BODY)
    if len(body) > MAX_BODY:
        raise HubError(
            "upstream_protocol_error", f"The model server answered more than {MAX_BODY} bytes."
        )
    return body
