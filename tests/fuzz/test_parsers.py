"""Every parser that takes bytes from outside, on a few bad examples. See ``parsers.py``."""

import pytest

from tests.fuzz import parsers


@pytest.mark.parametrize("name", parsers.PARTS)
def test_whatever_the_bytes_are_the_answer_is_typed(name: str) -> None:
    parsers.run(name, 50)
    parsers.mutate_all(name, 200, seed=0)
