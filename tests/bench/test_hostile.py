"""The command that attacks hub beside honest clients."""

import sys
from collections.abc import Mapping

import pytest

from hub.bench import hostile
from hub.bench.hostile import Case, Setup
from hub.bench.hostile_attacks import ATTACKS
from hub.bench.hostile_process import Came
from hub.bench.stats import spread

SETUP = Setup(streams=4, seconds=0.5, strength=0.2, serve=[], pin=False, progress=lambda _: None)
LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="it reads /proc, and uses all of 127.0.0.0/8"
)


def answers(case: Case, *names: str) -> set[str]:
    """What all of these attacks together got, but for what was cut off at the end."""
    return {got for name in names for got in case.attacks[name].got} - {"open at the end"}


@LINUX
async def test_honest_streams_are_whole_beside_every_attack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A small run of all of them at once: each is tried, and gets what it deserves."""
    monkeypatch.setattr(hostile, "WARMUP", 0.2)
    monkeypatch.setattr(hostile, "TOKENS", 8)
    quiet, mix = await hostile.measure([*ATTACKS], SETUP, alone=False)
    assert quiet.completed > 0
    assert mix.completed > 0
    assert quiet.failures == mix.failures == {}
    assert quiet.attacks == {}
    assert mix.attacks.keys() == ATTACKS.keys()
    assert all(came.attempts_per_s > 0 for came in mix.attacks.values())
    assert answers(mix, "no-key") == {"401"}
    assert answers(mix, "garbage") <= {"400", "closed", "reset"}
    assert answers(mix, "bombs") <= {"415", "1002"}
    assert answers(mix, "large") <= {"413", "1009", "reset"}
    assert answers(mix, "bad-upgrades") <= {"400", "403", "404", "426", "101"}
    held = answers(mix, "silent", "half-open", "slow-heads", "slow-bodies", "slow-frames")
    assert held <= {"408", "429", "closed", "reset"}
    assert mix.sockets > quiet.sockets > 0
    assert mix.peak_mb > 10


def case(title: str, ttft: float, itl: float, attacks: Mapping[str, Came], **more: int) -> Case:
    return Case(
        title, dict(attacks), spread([ttft]), spread([itl]), more, 10, 0.5, None, 70.0, 12, 0
    )


def test_the_table_compares_with_the_quiet_case() -> None:
    """Of one attack it says what it got; of several there would be no telling."""
    cases = [
        case("nobody", 2.0, 50.0, {}),
        case("one", 3.0, 50.0, {"garbage": Came(57.4, {"400": 1234})}),
        case("both", 8.0, 100.0, {"a": Came(1.0, {"x": 1}), "b": Came(2.0, {})}, closed_1008=2),
    ]
    lines = hostile.table(cases).splitlines()
    assert len(lines) == 5
    quiet, one, both = (line.split(" | ") for line in lines[2:])
    assert quiet[0] == "| nobody"
    assert one[1:3] == ["57", "400: 1,234"]
    assert one[5] == "1.50 / 1.00"
    assert both[1:3] == ["3", ""]
    assert both[5] == "4.00 / 2.00"
    assert both[-1] == "2 closed_1008 of 12 |"


def test_every_attack_has_an_address_of_its_own() -> None:
    """hub must not take one for the other, nor for an honest client."""
    sources = {hostile.source_of(name) for name in ATTACKS}
    if sys.platform.startswith("linux"):
        assert len(sources) == len(ATTACKS)
        assert "127.0.0.1" not in sources
