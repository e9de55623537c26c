"""The scheduler's rules, on random traffic, and the profiles' arithmetic."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.engines.sim_model import PROFILES, Profile, Scheduler, Sequence

SMALL = Profile("small", 3, 60, 10, p0=4, p1=2, steps=((1, 12), (4, 24)), sigma=0)

sizes = st.tuples(st.integers(1, 30), st.integers(1, 30))
"""Prompt and output of a sequence that fits in SMALL alone, though not with any other."""

traffic = st.lists(
    st.one_of(
        sizes.map(lambda size: ("add", size)),
        st.integers(0, 20).map(lambda index: ("remove", index)),
        st.just(("iterate", None)),
    ),
    max_size=80,
)


@given(traffic)
def test_rules_hold_under_any_traffic(steps: list[tuple[str, object]]) -> None:
    scheduler: Scheduler[Sequence] = Scheduler(SMALL)
    live: list[Sequence] = []
    for step, argument in steps:
        if step == "add":
            assert isinstance(argument, tuple)
            live.append(Sequence(*argument))
            scheduler.add(live[-1])
        elif step == "remove" and live:
            assert isinstance(argument, int)
            scheduler.remove(live.pop(argument % len(live)))
        elif step == "iterate":
            emitted = scheduler.iterate().emitted
            assert all(sequence in scheduler for sequence in emitted)
            for sequence in emitted:
                assert sequence.prefilled == sequence.prompt_tokens
                if sequence.decoded == sequence.max_tokens:
                    scheduler.remove(sequence)
                    live.remove(sequence)
        assert len(scheduler) == len(live) == scheduler.running + scheduler.waiting
        assert scheduler.running <= SMALL.slots
        assert scheduler.kv_used <= SMALL.kv_tokens
    for sequence in live:
        scheduler.remove(sequence)
    assert (len(scheduler), scheduler.kv_used) == (0, 0)


@given(st.lists(sizes, min_size=1, max_size=20))
def test_first_tokens_come_in_order_of_arrival(arrivals: list[tuple[int, int]]) -> None:
    scheduler: Scheduler[Sequence] = Scheduler(SMALL)
    sequences = [Sequence(*size) for size in arrivals]
    for sequence in sequences:
        scheduler.add(sequence)
    first_tokens: list[Sequence] = []
    decoded = dict.fromkeys(sequences, 0)
    while scheduler:
        for sequence in scheduler.iterate().emitted:
            decoded[sequence] += 1
            if sequence.decoded == 1:
                first_tokens.append(sequence)
            if sequence.decoded == sequence.max_tokens:
                scheduler.remove(sequence)
    assert first_tokens == sequences
    assert decoded == {sequence: sequence.max_tokens for sequence in sequences}


@given(st.lists(sizes, min_size=1, max_size=10))
def test_work_conserving(arrivals: list[tuple[int, int]]) -> None:
    """After an admission, whoever is next in line does not fit."""
    scheduler: Scheduler[Sequence] = Scheduler(SMALL)
    sequences = [Sequence(*size) for size in arrivals]
    for sequence in sequences:
        scheduler.add(sequence)
    scheduler.iterate()
    if scheduler.waiting:
        head = sequences[scheduler.running]
        full = scheduler.running == SMALL.slots
        assert full or scheduler.kv_used + head.kv_tokens > SMALL.kv_tokens


@given(st.lists(st.tuples(st.booleans(), sizes), min_size=1, max_size=20))
def test_a_static_engine_runs_one_batch_to_its_end(
    arrivals: list[tuple[bool, tuple[int, int]]],
) -> None:
    """Nothing is admitted while anything runs; then as many as fit, in order of arrival. (An
    arrival comes before the next iteration, or with the one before it.)"""
    profile = replace(SMALL, static=True)
    scheduler: Scheduler[Sequence] = Scheduler(profile)
    waiting: list[Sequence] = []
    running: list[Sequence] = []
    while arrivals or scheduler:
        if arrivals:
            _, size = arrivals.pop(0)
            waiting.append(Sequence(*size))
            scheduler.add(waiting[-1])
            if arrivals and arrivals[0][0]:
                continue
        if not running:
            kv_tokens = 0
            while waiting and len(running) < profile.slots:
                kv_tokens += waiting[0].kv_tokens
                if kv_tokens > profile.kv_tokens:
                    break
                running.append(waiting.pop(0))
        emitted = scheduler.iterate().emitted
        assert set(emitted) <= set(running)
        for sequence in emitted:
            if sequence.decoded == sequence.max_tokens:
                scheduler.remove(sequence)
                running.remove(sequence)
        assert (scheduler.running, scheduler.waiting) == (len(running), len(waiting))
        assert scheduler.kv_used == sum(sequence.kv_tokens for sequence in running)


def test_who_ends_early_in_a_static_batch_makes_room_for_nobody() -> None:
    """A removed sequence, too: only when the last of the batch is gone the next one begins."""
    scheduler: Scheduler[Sequence] = Scheduler(replace(SMALL, static=True))
    short, aborted, long, late = (Sequence(1, tokens) for tokens in (1, 9, 3, 1))
    for sequence in (short, aborted, long):
        scheduler.add(sequence)
    assert scheduler.iterate().emitted == [short, aborted, long]
    scheduler.add(late)
    scheduler.remove(short)
    scheduler.remove(aborted)
    assert scheduler.iterate().emitted == [long]
    assert scheduler.iterate().emitted == [long]
    scheduler.remove(long)
    assert scheduler.iterate().emitted == [late]


@pytest.mark.parametrize("iterations", [0, 1, 2, 5], ids=["waiting", "prefilling", "half", "late"])
def test_removal_gives_back_what_was_held(iterations: int) -> None:
    scheduler: Scheduler[Sequence] = Scheduler(SMALL)
    sequence = Sequence(25, 20)
    scheduler.add(sequence)
    for _ in range(iterations):
        scheduler.iterate()
    assert scheduler.kv_used == (45 if iterations else 0)
    scheduler.remove(sequence)
    scheduler.remove(sequence)
    assert (sequence in scheduler, scheduler.kv_used) == (False, 0)


def test_iterations_cost_prefill_and_decode() -> None:
    scheduler: Scheduler[Sequence] = Scheduler(SMALL)
    scheduler.add(Sequence(6, 5))
    prefill = scheduler.iterate()
    assert prefill.dt == pytest.approx((4 + 2 * 6) / 1000)
    assert len(prefill.emitted) == 1, "the iteration that ends a prompt yields its first token"
    scheduler.add(Sequence(13, 5))
    mixed = scheduler.iterate()
    assert mixed.dt == pytest.approx((4 + 2 * 10 + 12) / 1000)
    assert len(mixed.emitted) == 1, "three tokens of the second prompt are left"
    assert scheduler.iterate().dt == pytest.approx((4 + 2 * 3 + 12) / 1000)
    assert scheduler.iterate().dt == pytest.approx(16 / 1000), "two decode: 12 + (24 - 12) / 3"


def test_an_empty_iteration_takes_no_time() -> None:
    scheduler: Scheduler[Sequence] = Scheduler(SMALL)
    assert scheduler.iterate() == (0, [])


def test_what_can_never_fit_is_refused() -> None:
    scheduler: Scheduler[Sequence] = Scheduler(SMALL)
    with pytest.raises(ValueError, match="61 tokens do not fit in 60"):
        scheduler.add(Sequence(60, 1))
    assert len(scheduler) == 0


def test_a_finished_sequence_must_be_removed() -> None:
    scheduler: Scheduler[Sequence] = Scheduler(SMALL)
    scheduler.add(Sequence(1, 1))
    scheduler.iterate()
    with pytest.raises(AssertionError, match="remove a sequence after its last token"):
        scheduler.iterate()


@pytest.mark.parametrize("size", [(0, 1), (1, 0)])
def test_a_sequence_has_prompt_and_output(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Sequence(*size)


def durations(seed: int, sigma: float) -> list[float]:
    scheduler: Scheduler[Sequence] = Scheduler(replace(SMALL, sigma=sigma, kv_tokens=5000), seed)
    scheduler.add(Sequence(1, 4000))
    scheduler.iterate()
    return [scheduler.iterate().dt for _ in range(2000)]


def test_noise_is_seeded_and_has_mean_one() -> None:
    noisy = durations(seed=1, sigma=0.05)
    assert noisy == durations(seed=1, sigma=0.05) != durations(seed=2, sigma=0.05)
    assert sum(noisy) == pytest.approx(2000 * 0.012, rel=0.01)
    assert min(noisy) < 0.0115 < 0.0125 < max(noisy)


def test_steps_are_published_points_and_lines_between() -> None:
    llama, h100 = PROFILES["llama-cpu"], PROFILES["h100-8b"]
    assert [llama.step(size) for size in (1, 2, 4, 5, 8, 16)] == [12, 32, 67, 75, 80.5, 114]
    assert llama.step(3) == (32 + 67) / 2
    assert (h100.step(1), h100.step(16)) == (12, 24)
    assert h100.step(31) == 36, "beyond the table it goes on as at its end"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"slots": 0}, "at least 1"),
        ({"chunk": 0}, "at least 1"),
        ({"steps": ((1, 12.0),)}, "must rise"),
        ({"steps": ((2, 12.0), (3, 12.0))}, "must rise"),
        ({"steps": ((1, 12.0), (1, 13.0))}, "must rise"),
    ],
)
def test_impossible_profiles_are_refused(change: dict[str, object], why: str) -> None:
    fields = {name: getattr(SMALL, name) for name in SMALL.__slots__}
    with pytest.raises(ValueError, match=why):
        Profile(**{**fields, **change})


def test_the_static_profile_is_the_same_machine() -> None:
    """What differs between the two is when sequences are admitted, and nothing else."""
    static = PROFILES["h100-8b-static"]
    assert static.static
    assert replace(static, name="h100-8b", static=False) == PROFILES["h100-8b"]
    assert sum(profile.static for profile in PROFILES.values()) == 1


def test_profiles_are_named_as_they_are_listed() -> None:
    assert all(name == profile.name for name, profile in PROFILES.items())
