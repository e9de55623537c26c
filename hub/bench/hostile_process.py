"""The attackers' process: ``python -m hub.bench.hostile_process``.

Its first line of input is a ``Plan`` as JSON. It says ``ready``, waits for one more line, attacks
for as long as the plan says, and prints what the attacks came to, as JSON. It gives way to every
other process (nice 19): what it takes of a core, nobody else wanted.
"""

import asyncio
import os
import resource
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

import orjson

from hub.bench.clients import Target
from hub.bench.hostile_attacks import ATTACKS, Attack
from hub.bench.hostile_peer import Attempts
from hub.bench.running import run

NICE = 19
"""The least that a process may want of a core."""
AGAIN = 0.05
"""Seconds that a worker waits after a failure to connect."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Whom to attack, how, and for how many seconds."""

    url: str
    attacks: dict[str, float]
    """By name: attempts per second."""
    seconds: float
    keys: dict[str, str]
    """Tenant -> key."""
    sources: dict[str, str]
    """The address that an attack comes from, by the attack's name."""


@dataclass(frozen=True, slots=True)
class Came:
    """What one attack came to."""

    attempts_per_s: float
    got: dict[str, int]


def raise_limit() -> None:
    """Let this process, and those that it starts, have as many open files as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def attack(plan: Plan) -> dict[str, Came]:
    """Run all attacks of a plan side by side. Nothing of them is left when it returns."""
    target, begun = Target.parse(plan.url), time.monotonic()
    running = {
        name: Attempts(target, plan.sources[name], rate, plan.keys.get(ATTACKS[name].key))
        for name, rate in plan.attacks.items()
    }
    workers = [
        asyncio.create_task(_work(ATTACKS[name], attempts))
        for name, attempts in running.items()
        for _ in range(ATTACKS[name].workers)
    ]
    await asyncio.wait(workers, timeout=plan.seconds, return_when=asyncio.FIRST_EXCEPTION)
    seconds = time.monotonic() - begun
    for worker in workers:
        worker.cancel()
    failed = [
        one
        for one in await asyncio.gather(*workers, return_exceptions=True)
        if not isinstance(one, asyncio.CancelledError)
    ]
    assert not failed, f"a worker has failed: {failed[0]!r}"
    return {
        name: Came(attempts.begun / seconds, dict(attempts.got.most_common()))
        for name, attempts in running.items()
    }


async def _work(attack: Attack, attempts: Attempts) -> None:
    while True:
        try:
            await attack.worker(attempts)
        except ConnectionRefusedError:
            attempts.got["refused"] += 1
            await asyncio.sleep(AGAIN)
        except OSError:
            attempts.got["reset"] += 1
            await asyncio.sleep(AGAIN)


def main() -> None:
    """See the top of this file."""
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    raise_limit()
    plan = Plan(**orjson.loads(sys.stdin.readline()))
    print("ready", flush=True)
    if sys.stdin.readline():
        sys.stdout.buffer.write(orjson.dumps(run(attack(plan))))


if __name__ == "__main__":
    main()
