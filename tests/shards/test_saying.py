"""Lines on standard error."""

from ringpit.shards import saying


class Stream:
    """A stream that is shared with other processes."""

    def __init__(self):
        self.writes = []

    def write(self, text):
        """One system call, as of an unbuffered stream."""
        self.writes.append(text)

    def flush(self):
        """Nothing is kept back."""


def test_a_line_is_one_write(monkeypatch):
    """Nobody else can get in between a line and its end."""
    stream = Stream()
    monkeypatch.setattr(saying.sys, "stderr", stream)
    saying.say_as("worker-0")("one")
    saying.say("two")
    assert ["worker-0: one\n", "ringpit: two\n"] == stream.writes
