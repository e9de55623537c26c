"""The clients and the token source run on both event loops, too."""

from tests.server.conftest import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
