"""Every endpoint on a few requests that schemathesis makes of hub's own description.

Needs the extra ``fuzz``.
"""

from collections.abc import Iterator

import pytest

pytest.importorskip("schemathesis")

from schemathesis import GenerationMode

from hub.server.openapi import DOCUMENT
from tests.fuzz import http
from tests.fuzz.target import Target

OPERATIONS = http.operations()


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Target() as target:
        yield target


@pytest.fixture(scope="module")
def asker(target: Target) -> Iterator[http.Asker]:
    asker = http.Asker(target.url)
    yield asker
    asker.close()


def test_everything_that_is_described_can_be_tried() -> None:
    described = [one["operationId"] for item in DOCUMENT["paths"].values() for one in item.values()]
    assert sorted(OPERATIONS) == sorted(described)


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("name", OPERATIONS)
def test_whatever_is_asked_the_answer_is_as_described(
    target: Target, asker: http.Asker, name: str, mode: GenerationMode
) -> None:
    http.run(asker, OPERATIONS[name], mode, 5)
    assert not target.errors
