"""
The scenarios of tests/scenarios, on the naive exchange and on the engine with either structure of levels.

ringpit.testing.scenarios says how they are written.
"""

from pathlib import Path

import pytest

from ringpit.engine.codes import LevelKind
from ringpit.engine.exchange import Exchange
from ringpit.testing.naive import NaiveExchange
from ringpit.testing.scenarios import play

SCENARIOS = sorted((Path(__file__).parent.parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize(
    ("make", "levels"),
    [(NaiveExchange, LevelKind.AUTO), (Exchange, LevelKind.LADDER), (Exchange, LevelKind.SKIP_LIST)],
    ids=["naive", "ladder", "skip_list"],
)
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_goes_as_drawn(path, make, levels):
    """Every exchange reports, shows and keeps exactly what the scenario says, and it says something."""
    assert play(path.read_text(), make, levels) > 0


def test_scenarios_are_found():
    """The folder of scenarios is where this file looks, and every file there opens with what it shows."""
    assert len(SCENARIOS) >= 80
    assert all(path.read_text().startswith("# ") for path in SCENARIOS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("   buy 1 @ 50 #1\n", "line 1 belongs to no block"),
        ("when    buy 1 at 50 #1\n", "a command has no 'at'"),
        ("whenever buy 1 @ 50 #1\n", "a scenario has no block 'whenever'"),
    ],
)
def test_mistakes_in_a_scenario_are_refused(text, message):
    """A line outside a block, an unknown word and an unknown block are errors, not lines without effect."""
    with pytest.raises(ValueError, match=message):
        play(text, NaiveExchange)


@pytest.mark.parametrize(
    "text",
    [
        "when    buy 1 @ 50 #1\nthen    accept 2 @ 50 #1\n",
        "when    buy 1 @ 50 #1\nbook    empty\n",
        "when    buy 1 @ 50 #1..3\nthen    accept 1 @ 50 #1..2\n",
        "given   bid | ticks | ask\n        1#1 2#2 | 50 |\nbook    bid | ticks | ask\n        2#2 1#1 | 50 |\n",
        "when    buy 3 @ 50 hidden #1\nbook    bid | ticks | ask\n        3#1 | 50 |\n",
        "when    buy 3 @ 50 #1\ntold    bid 50 shows 2\n",
        "when    buy 3 stop trigger 50 #1\nwaiting nothing\n",
        "event   from 9 to 1 pays 10\nwhen    buy 1 @ 5 #1\n",
    ],
)
def test_a_wrong_scenario_fails(text):
    """A scenario fails that says something else than what happens: in lots, number, priority, what is shown or waits."""
    with pytest.raises(AssertionError):
        play(text, NaiveExchange)
