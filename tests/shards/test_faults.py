"""Fault points do nothing unless they are armed, and then exactly what they are told."""

import signal

import pytest

from ringpit.shards import faults
from ringpit.shards.faults import Armed, Crash, Step, arm_from, met, spared


@pytest.fixture(autouse=True)
def disarmed():
    """Whatever a test arms is disarmed."""
    yield
    faults.armed.step, faults.armed.signal_number, faults.armed.left = Step.NOWHERE, 0, 0


def test_unarmed_nothing_happens():
    """Every step is passed (FP1)."""
    arm_from("", "worker-0.1")
    for step in Step:
        if step is not Step.NOWHERE:
            met(step)
    assert Armed() == faults.armed


def test_armed_it_ends_at_its_step_and_time():
    """The third time, and only at that step."""
    faults.armed.step, faults.armed.left = Step.CUT, 3
    met(Step.CUT)
    met(Step.APPENDED)
    met(Step.CUT)
    with pytest.raises(Crash, match="CUT"):
        met(Step.CUT)
    met(Step.CUT)


def test_a_signal_is_sent_to_this_process(monkeypatch):
    """What the environment says of this process and this incarnation alone."""
    sent = []
    monkeypatch.setattr(faults.signal, "pthread_kill", lambda _thread, number: sent.append(number))
    arm_from("worker-0.2:CUT:SIGKILL:1,worker-0.1:SENT:SIGSTOP:2", "worker-0.1")
    met(Step.CUT)
    met(Step.SENT)
    assert [] == sent
    met(Step.SENT)
    assert [signal.SIGSTOP] == sent


def test_who_is_spared_is_said(monkeypatch):
    """A worker is spared by its own name or by the one of the follower that it was; without a word nobody is."""
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    assert not spared(0, 1)
    text = "worker-0.1:CUT:SIGSTOP:3:SPARE,follower-1.2:CUT:SIGSTOP:1:SPARE,worker-1.3:CUT:SIGSTOP:1"
    monkeypatch.setenv(faults.VARIABLE, text)
    assert [(0, 1), (1, 2)] == [(shard, life) for shard in (0, 1) for life in (1, 2, 3) if spared(shard, life)]


@pytest.mark.parametrize(
    "text",
    [
        "worker-0.1",
        "worker-0.1:NOWHERE_ELSE:SIGKILL:1",
        "a:CUT:SIGNAL:1",
        "a:CUT:SIGKILL:x",
        "a:CUT:SIGKILL:1:SPARED",
    ],
)
def test_what_makes_no_sense_is_refused(text):
    """With the form that does."""
    with pytest.raises(ValueError, match=r"RINGPIT_FAULT must be like worker-0\.1:JOURNALED:SIGKILL:1"):
        arm_from(text, "worker-0.1")
