"""The faults that the simulated engine commits when it is asked to, through the model's name.

``sim+error`` fails in mid-stream; ``sim+error=20`` does so after 20 tokens. They are for tests and
demonstrations of what hub does when a model server misbehaves, and must be switched on.
"""

from dataclasses import dataclass

from hub.errors import HubError

AMOUNTS: dict[str, int] = {
    # What any engine can do.
    "hang": 0,
    "slow": 2,
    "error": 8,
    "eof": 8,
    "400": 0,
    "429": 1,
    "503": 1,
    # What takes a wire: without one they do nothing.
    "null": 3,
    "comment": 1,
    "garbage": 4,
    "cut": 600,
    "html": 0,
    "noinfill": 0,
    "deaf": 0,
}
"""Every fault, with the number that it has if none is given.

``hang``: nothing ever comes. ``slow``: that many seconds pass before the prompt is queued.
``error``, ``eof``: it fails, or ends without saying so, after that many tokens. ``400``: the prompt
counts as too long. ``429``, ``503``: refused, try again after that many seconds. ``null``: the
stream opens with that many ``data: null``. ``comment``: that many comments before every event.
``garbage``: the event of that number, from 0, is no JSON. ``cut``: the connection breaks after that
many bytes of the body. ``html``: a proxy's error page. ``noinfill``: no markers for ``/infill``, as
llama.cpp with most models. ``deaf``: what is not streamed goes on when its client has gone, as with
llama.cpp.
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; see ``AMOUNTS``."""

    kind: str
    amount: int


def parse(model: str) -> Fault | None:
    """The fault that a model's name asks for."""
    _, plus, wish = model.partition("+")
    if not plus:
        return None
    kind, equals, amount = wish.partition("=")
    known = kind in AMOUNTS and (not equals or (amount.isascii() and amount.isdigit()))
    # The bound keeps int() cheap, and is far more than any of the numbers means.
    if not known or len(amount) > 9:
        kinds = ", ".join(AMOUNTS)
        raise HubError(
            "model_not_found",
            f"The simulated engine has no fault '{wish[:64]}'. It has: {kinds}; 'kind=number'.",
            param="model",
        )
    return Fault(kind, int(amount) if equals else AMOUNTS[kind])
