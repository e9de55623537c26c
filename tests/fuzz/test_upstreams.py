"""A model server that answers anything, over sockets. See ``upstreams.py``."""

from tests.fuzz import upstreams


async def test_whatever_a_model_server_sends_the_engine_answers_typed() -> None:
    found: list[str] = []
    await upstreams.attack(150, 0, found=found.append)
    assert not found
