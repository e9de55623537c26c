"""Every HTTP endpoint on what schemathesis makes of hub's own description, good and bad.

Every answer has a status, a type and a shape that are described, and is never a 500. What is
described as good is not refused as badly formed, and what is described as bad is refused: so the
description is held against the parsers, too.
"""

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from hub.server.openapi import DOCUMENT

DEADLINE = 10.0
"""Seconds for an answer."""

CHECKS = (
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
)
FORM = ("invalid_json", "invalid_type", "missing_required_parameter")
"""The codes for what is badly formed. Good requests may still be refused by rules that lie between
their fields, which schemas do not say."""
UNSAID = ("is a number.", "must be a whole number.", "'input' is required.")
"""The ends of messages about form that schemas do not say: to them 1.0 is an integer, and a
response may have a parent in the place of an input."""

Operation = schemathesis.APIOperation[Any, Any, Any, Any]


def operations() -> dict[str, Operation]:
    """All that hub describes, by its name."""
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    found = [one.ok() for one in schema.get_all_operations() if isinstance(one, Ok)]
    return {str(one.definition.raw["operationId"]): one for one in found}


ALTERNATIVES = (
    ("max_completion_tokens", "max_tokens"),
    ("n_predict", "max_tokens"),
    ("n_cmpl", "n"),
)
"""Fields of which only the first is read, if both are there."""


def unread(case: Any) -> bool:
    """Whether what is bad about a case may be in what nobody reads."""
    body = case.body if isinstance(case.body, dict) else {}
    several = any(name in body and other in body for name, other in ALTERNATIVES)
    # Without a stream nobody looks where it is to start.
    return several or "starting_after" in (case.query or {})


class Asker:
    """Asks a hub, and knows ids of responses that are there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.mount("http://", HTTPAdapter(pool_maxsize=1))
        self.ids: list[str] = []

    def close(self) -> None:
        self.session.close()

    def known(self, random: Random) -> str:
        """The id of a response that was there, and mostly still is."""
        if len(self.ids) < 4 or random.random() < 0.1:
            body: Any = {"input": "Hello", "background": True, "max_output_tokens": 3}
            answer = self.session.post(f"{self.url}/v1/responses", json=body, timeout=DEADLINE)
            self.ids.append(answer.json()["id"])
        return random.choice(self.ids[-4:])


def check(asker: Asker, case: Any, mode: GenerationMode, random: Random) -> None:
    """Send a case and raise for whatever is wrong with its answer."""
    if "id" in case.path_parameters and random.random() < 0.7:
        case.path_parameters["id"] = asker.known(random)
    if "model" in case.path_parameters and random.random() < 0.5:
        case.path_parameters["model"] = "sim"
    answer = case.call(base_url=asker.url, session=asker.session, timeout=DEADLINE)
    status = answer.status_code
    # aiohttp answers some paths, such as an empty id, as another one.
    if status not in (404, 405):
        case.validate_response(answer, checks=[*CHECKS])
    if status >= 400:
        error = answer.json()["error"]
        assert error["message"]
        assert error["code"] not in ("server_error", 500), error
        if mode is GenerationMode.POSITIVE:
            well = error["code"] not in FORM or error["message"].endswith(UNSAID)
            assert well, f"a good request was refused: {error}"
    elif mode is GenerationMode.NEGATIVE and not unread(case):
        case.validate_response(answer, checks=[checks.negative_data_rejection])


def run(
    asker: Asker, operation: Operation, mode: GenerationMode, cases: int, *, seed: int = 0
) -> int:
    """Try an operation on so many requests; the number of those that were tried. Raises for the
    simplest that fails."""
    tried = 0

    def one(case: Any, random: Random) -> None:
        nonlocal tried
        tried += 1
        check(asker, case, mode, random)

    test: Callable[[], None] = hypothesis.settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )(given(operation.as_strategy(generation_mode=mode), st.randoms(use_true_random=True))(one))
    with suppress(Unsatisfiable):  # some endpoints take nothing that could be bad
        hypothesis.seed(seed)(test)()
    return tried
