"""Waiting: which way of waiting comes when."""

import pytest

from ringpit.ipc import idle
from ringpit.ipc.idle import (
    GATHER_PAUSES,
    LULL_POLLS,
    LULL_US,
    MODES,
    NAP_US_MAX,
    SLEEP,
    SLEEP_LIGHTLY,
    SPINS_MAX,
    YIELDS_MAX,
    Idle,
    idle_step,
    nap_us_after,
)

SPINNING = ["pause"] * (GATHER_PAUSES + SPINS_MAX - 1)  # the first poll lets work gather


def ways(monkeypatch, mode, polls):
    """What each of so many idle polls does, by the plain Python form of the kernel."""
    seen = []
    for name in ("pause", "yield_core"):
        monkeypatch.setattr(idle, name, lambda name=name: seen.append(name))
    monkeypatch.setattr(idle, "nap_us", lambda duration_us: seen.append(int(duration_us)))
    step = getattr(idle_step, "py_func", idle_step)
    state = [0]
    for _ in range(polls):
        step(state, 0, MODES[mode], False)
    return seen


def test_spinning_never_gives_up_the_core(monkeypatch):
    """Mode spin only pauses."""
    assert {"pause"} == set(ways(monkeypatch, "spin", SPINS_MAX + YIELDS_MAX + 50))


def test_yielding_comes_after_spinning_and_never_sleeps(monkeypatch):
    """Mode spin-then-yield pauses SPINS_MAX times, then yields for ever."""
    seen = ways(monkeypatch, "spin-then-yield", SPINS_MAX + YIELDS_MAX + 50)
    assert SPINNING + ["yield_core"] * (YIELDS_MAX + 50) == seen


def test_naps_double_up_to_a_millisecond(monkeypatch):
    """Mode sleep pauses, yields, then naps 1, 2, 4 ... us."""
    seen = ways(monkeypatch, "sleep", SPINS_MAX + YIELDS_MAX + 13)
    assert SPINNING + ["yield_core"] * YIELDS_MAX == seen[: len(SPINNING) + YIELDS_MAX]
    assert [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 1_024, 1_024] == seen[len(SPINNING) + YIELDS_MAX :]


@pytest.mark.parametrize(("mode", "longest_us"), [(SLEEP, LULL_US), (SLEEP_LIGHTLY, NAP_US_MAX)])
def test_naps_grow_once_more_in_a_lull_unless_somebody_watches(monkeypatch, mode, longest_us):
    """After LULL_NAPS naps of a millisecond mode sleep naps longer; sleeping lightly does not."""
    seen = []
    monkeypatch.setattr(idle, "nap_us", lambda duration_us: seen.append(int(duration_us)))
    step = getattr(idle_step, "py_func", idle_step)
    state = [LULL_POLLS - 2]
    for _ in range(4):
        step(state, 0, mode, False)
    assert [NAP_US_MAX, NAP_US_MAX, longest_us, longest_us] == seen


def test_a_nap_has_a_longest_length_however_long_the_wait():
    """A day without work does not overflow the shift."""
    assert LULL_US == nap_us_after(1 << 60)


def test_a_loop_whose_poll_waits_is_told_how_long():
    """In mode sleep the ladder's nap is answered and not made; other modes wait themselves and answer 0."""
    waiting = Idle("sleep", skipped=SPINS_MAX + YIELDS_MAX + 6)
    assert [0.000064, 0.000128, 0.000256] == [waiting.seconds_after(0) for _ in range(3)]
    assert 0.0 == waiting.seconds_after(5)
    assert 0.000064 == waiting.seconds_after(0)
    spinning = Idle("spin")
    assert [0.0, 0.0] == [spinning.seconds_after(0), spinning.seconds_after(0)]
    assert 2 == spinning.idle_polls


@pytest.mark.parametrize("mode", MODES)
def test_work_starts_the_ladder_again(mode):
    """Polls without work are counted, in every mode and down to the naps, and forgotten when there is work."""
    waiting = Idle(mode)
    for _ in range(SPINS_MAX + YIELDS_MAX + 3):
        waiting(0)
    assert SPINS_MAX + YIELDS_MAX + 3 == waiting.idle_polls
    waiting(17)
    assert 0 == waiting.idle_polls


def test_a_loop_in_python_may_begin_with_a_nap(monkeypatch):
    """Steps that are skipped are not made, nor counted, also after there was work."""
    seen = []
    monkeypatch.setattr(
        idle, "idle_step", lambda polls, index, _mode, _worked: seen.append(polls[index].item())
    )
    waiting = Idle("sleep", skipped=SPINS_MAX + YIELDS_MAX)
    waiting(0)
    waiting(1)
    waiting(0)
    assert [SPINS_MAX + YIELDS_MAX] * 2 == seen
    assert 0 == waiting.idle_polls


def test_an_unknown_mode_is_refused_with_those_that_exist():
    """The error lists the modes."""
    with pytest.raises(ValueError, match="idle mode must be one of spin, spin-then-yield, sleep, was 'nap'"):
        Idle("nap")
