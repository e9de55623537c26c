"""How long the simulated model takes: batching on a server with one accelerator.

The rules of its world, which are those of llama.cpp's and vLLM's schedulers (continuous batching):

1. Work is done in iterations. A sequence waits, is admitted, has its prompt prefilled, and then
   decodes one token in every iteration until it is removed.
2. Admission is first in, first out, at the start of an iteration: while a slot is free and the KV
   cache has room for the head's prompt and all of its output. Who does not fit holds up those
   behind it, so nobody starves.
3. Prefill takes at most ``chunk`` prompt tokens per iteration, shared by the sequences that need
   it, in order of admission. The iteration that ends a prompt yields the first token.
4. All sequences that were decoding when the iteration began share one decode step.
5. An iteration therefore takes
   ``(p0 + p1 * prefilled tokens, if any) + (step(decoding), if any)``, times lognormal noise.
6. Removing a sequence, in whatever phase, gives back exactly what it held.

A *static* engine cannot batch by itself: it runs the batch that it is given to the end, as a plain
call of a model's ``generate`` does. For it rule 2 begins: nothing is admitted while anything runs.
What waits then, as far as slots and cache allow, is one batch; the next is admitted when its
longest sequence has ended. Who ends early makes room for nobody.

No clock and no text here: ``iterate`` says how long an iteration takes and who has a token at its
end; the caller lets the time pass and removes the sequences that have said everything.
"""

import random
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Generic, NamedTuple, TypeVar


@dataclass(frozen=True, slots=True)
class Profile:
    """What a server of one kind can do. Times are in milliseconds, as they are published."""

    name: str
    slots: int
    """The most sequences that run at once."""
    kv_tokens: int
    """Tokens of KV cache, shared by all slots; also the longest context."""
    chunk: int
    """The most prompt tokens that one iteration prefills."""
    p0: float
    """What any prefill costs."""
    p1: float
    """What each token of a prefill costs."""
    steps: tuple[tuple[int, float], ...]
    """The decode step by batch size: at least two points from batch size 1 up, linear between
    them, and going on beyond the last as between the last two."""
    sigma: float = 0.05
    """Standard deviation of the logarithm of an iteration's noise, whose mean is 1."""
    static: bool = False
    """Whether it runs one batch to its end before it admits the next."""

    def __post_init__(self) -> None:
        if min(self.slots, self.kv_tokens, self.chunk) < 1:
            raise ValueError(
                f"profile {self.name!r}: slots, kv_tokens and chunk must be at least 1"
            )
        sizes = [size for size, _ in self.steps]
        if len(sizes) < 2 or sizes[0] != 1 or sizes != sorted(set(sizes)):
            raise ValueError(f"profile {self.name!r}: steps must rise from batch size 1")

    def step(self, decoding: int) -> float:
        """Milliseconds of one decode step of ``decoding`` sequences."""
        right = bisect_right(self.steps, decoding, key=itemgetter(0))
        right = min(right, len(self.steps) - 1)
        (n0, t0), (n1, t1) = self.steps[right - 1], self.steps[right]
        return t0 + (t1 - t0) * (decoding - n0) / (n1 - n0)


_H100_8B = Profile("h100-8b", 16, 400_000, 2048, p0=30, p1=0.25, steps=((1, 12), (16, 24)))

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        _H100_8B,
        replace(_H100_8B, name="h100-8b-static", static=True),
        Profile("h100x8-70b", 64, 1_000_000, 2048, p0=80, p1=0.5, steps=((1, 25), (64, 75))),
        Profile(
            "llama-cpu",
            slots=16,
            kv_tokens=65_536,
            chunk=2048,
            p0=4,
            p1=2.2,
            steps=((1, 12), (2, 32), (4, 67), (5, 75), (8, 80.5), (16, 114)),
        ),
    )
}
"""Servers to be like.

``h100-8b`` and ``h100x8-70b``: prefill, inter-token latency and its growth with the batch as
llm-d-inference-sim publishes them for an 8B model on one H100 (30 ms + 0.25 ms a token; 12 ms,
twice that at 16) and a 70B model on eight (80 ms + 0.5 ms; 25 ms, three times that at 64). It
sleeps per request and has neither a KV cache nor chunks: those two numbers are ours, of the size
that vLLM has on such machines. ``h100-8b-static``: the same machine, under a server that batches
only what it is given at once.

``llama-cpu``: fitted to llama-server with Gemma 3 270M (Q4_K_M) on one EPYC core, measured with
1 to 32 requests at 1 to 16 slots. Batches of 2 to 4 are slower than one after the other there.
"""

DEFAULT_PROFILE = PROFILES["h100-8b"]


class Sequence:
    """One prompt and its output, as the scheduler sees them. Subclass it to carry more."""

    __slots__ = ("decoded", "max_tokens", "prefilled", "prompt_tokens")

    def __init__(self, prompt_tokens: int, max_tokens: int) -> None:
        if prompt_tokens < 1 or max_tokens < 1:
            raise ValueError("a sequence has at least one token of prompt and one of output")
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.prefilled = 0
        self.decoded = 0

    @property
    def kv_tokens(self) -> int:
        """What it holds of the KV cache from admission to removal."""
        return self.prompt_tokens + self.max_tokens


S = TypeVar("S", bound=Sequence)


class Iteration(NamedTuple, Generic[S]):
    """What one iteration does."""

    dt: float
    """Seconds that it takes."""
    emitted: list[S]
    """The sequences that have one token more at its end, in order of admission."""


class Scheduler(Generic[S]):
    """The rules at the top of this file. Call ``iterate`` again and again while it is not empty."""

    def __init__(self, profile: Profile, seed: int = 0) -> None:
        self._profile = profile
        self._random = random.Random(seed)
        # A plain dict walks over the holes of its deleted front: too slow for a long queue.
        self._waiting: OrderedDict[S, None] = OrderedDict()
        self._prefilling: dict[S, None] = {}
        self._decoding: dict[S, None] = {}
        self._kv_used = 0

    def __len__(self) -> int:
        """All sequences that it has, waiting or running."""
        return len(self._waiting) + self.running

    def __contains__(self, sequence: object) -> bool:
        return any(sequence in part for part in self._phases)

    @property
    def _phases(self) -> tuple[dict[S, None], ...]:
        return self._waiting, self._prefilling, self._decoding

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._prefilling) + len(self._decoding)

    @property
    def kv_used(self) -> int:
        """Tokens of KV cache that the running sequences hold."""
        return self._kv_used

    def add(self, sequence: S) -> None:
        """Queue a sequence. ``ValueError`` if it could never be admitted."""
        assert sequence not in self, "a sequence is added once"
        if sequence.kv_tokens > self._profile.kv_tokens:
            raise ValueError(
                f"{sequence.kv_tokens} tokens do not fit in {self._profile.kv_tokens} of KV cache"
            )
        self._waiting[sequence] = None

    def remove(self, sequence: S) -> None:
        """Forget a sequence, in whatever phase. Harmless if it is not there any more."""
        if sequence in self._waiting:
            del self._waiting[sequence]
            return
        for phase in (self._prefilling, self._decoding):
            if sequence in phase:
                del phase[sequence]
                self._kv_used -= sequence.kv_tokens

    def iterate(self) -> Iteration[S]:
        """Run one iteration. Its effects hold at once; its tokens are due ``dt`` seconds later."""
        self._admit()
        decoding = len(self._decoding)
        prefilled = self._prefill()
        emitted = list(self._decoding)
        for sequence in emitted:
            assert sequence.decoded < sequence.max_tokens, "remove a sequence after its last token"
            sequence.decoded += 1
        return Iteration(self._duration(prefilled, decoding), emitted)

    def _admit(self) -> None:
        if self._profile.static and self.running:
            return
        while self._waiting and self.running < self._profile.slots:
            head = next(iter(self._waiting))
            if self._kv_used + head.kv_tokens > self._profile.kv_tokens:
                return
            del self._waiting[head]
            self._prefilling[head] = None
            self._kv_used += head.kv_tokens

    def _prefill(self) -> int:
        """Prefill a chunk's worth; whose prompt is done starts to decode."""
        budget = self._profile.chunk
        done: list[S] = []
        for sequence in self._prefilling:
            tokens = min(budget, sequence.prompt_tokens - sequence.prefilled)
            sequence.prefilled += tokens
            budget -= tokens
            if sequence.prefilled < sequence.prompt_tokens:
                break  # The budget is used up.
            done.append(sequence)
        for sequence in done:
            del self._prefilling[sequence]
            self._decoding[sequence] = None
        return self._profile.chunk - budget

    def _duration(self, prefilled: int, decoding: int) -> float:
        profile = self._profile
        ms = 0.0
        if prefilled:
            ms += profile.p0 + profile.p1 * prefilled
        if decoding:
            ms += profile.step(decoding)
        # The shift by half the variance makes the mean 1.
        noise = self._random.lognormvariate(-(profile.sigma**2) / 2, profile.sigma)
        return ms * noise / 1000
