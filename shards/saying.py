"""Lines for people, on standard error: one fact, one line, one write, for all processes of an exchange share it."""

import sys
from collections.abc import Callable


def say_as(name: str) -> Callable[[str], None]:
    """A function that prints one line for one fact, with the process's name before it."""

    def say(text: str) -> None:
        # Not print(): unbuffered, it would end the line with a second write.
        sys.stderr.write(f"{name}: {text}\n")
        sys.stderr.flush()

    return say


say = say_as("ringpit")
