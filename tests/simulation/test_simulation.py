"""
Whole exchanges under faults from one seed: nothing is lost, nothing comes twice, and everything settles.

A failing seed names itself; `python -m pytest tests/simulation --seed N` plays it again, to the last access, and
`python -m ringpit.testing.simulation --seed N --say` prints what its processes said.
"""

import multiprocessing
import os

import pytest

from ringpit.shards import publisher
from ringpit.testing import simulation
from ringpit.testing.mutations import MUTATIONS, SEEDS, Edit, EditMissing, Mutation, breaks, table_of
from ringpit.testing.simulated_judge import Broken
from ringpit.testing.simulation import World, simulate

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
CHUNK = 2 if INTERPRETED else 25  # seeds of one test
CHUNKS = 1 if INTERPRETED else 10
SOAK_SEEDS = 10_000
SOAK_CHUNK = 250


def broken_of(seed):
    """What a seed says; empty if all is well."""
    try:
        simulate(seed)
    except Broken as broken:
        return f"seed {seed}: {broken}"
    return ""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_seeds_settle(chunk, request):
    """Every order of these seeds is answered once, and books and logs agree; or of the one seed that --seed names."""
    seed = request.config.getoption("--seed")
    if seed is not None and chunk:
        pytest.skip("--seed names one seed")
    seeds = range(1 + chunk * CHUNK, 1 + (chunk + 1) * CHUNK) if seed is None else (seed,)
    assert [] == [said for said in map(broken_of, seeds) if said]


@pytest.mark.compiled
@pytest.mark.parametrize("name", SEEDS)
def test_no_rule_can_be_taken_out(name):
    """Each rule of DESIGN, taken out of the code, breaks the seed that is known for it; and that seed is well with the rule."""
    assert "" != breaks((name, SEEDS[name]))
    assert "" == broken_of(SEEDS[name])


def test_a_mutation_that_finds_nothing_to_take_out_breaks_no_seed(monkeypatch):
    """The code has changed under it: that is said, and not taken for a seed that breaks."""
    rule = Mutation("none", (Edit(publisher, "Publisher._send", "what is not there", ""),))
    monkeypatch.setitem(MUTATIONS, "none", rule)
    with pytest.raises(EditMissing, match=r"Publisher._send must hold 'what is not there': mend the mutation"):
        breaks(("none", 1))


def test_what_breaks_nothing_says_why():
    """A rule that no seed needs is either not needed, or the simulation is blind to it; which, is written beside it."""
    assert [] == [name for name, mutation in MUTATIONS.items() if (name in SEEDS) == bool(mutation.why)]


def test_a_seed_is_one_schedule():
    """The same seed runs the same way again: turns, time and everything that came out."""
    runs = []
    for _ in range(2):
        world = World(7)
        world.run()
        runs.append((world.schedule.turns, world.schedule.now_ns, world.outlet.received))
    assert runs[0] == runs[1]


def test_faults_happen():
    """Among a few seeds workers are replaced by followers, machines lose power, and logs take a batch twice: else they prove little."""
    said = []
    for seed in range(1, 3 if INTERPRETED else 25):
        World(seed, said.append).run()
    told = "\n".join(said)
    wanted = ["is killed"] if INTERPRETED else [
        "is killed", "dies at", "stands still at", "loses power", "took over from", "made again", "from the snapshot",
    ]  # fmt: skip
    assert [] == [words for words in wanted if words not in told]


def test_a_run_that_cannot_settle_is_broken(monkeypatch):
    """A run that takes too many turns says where everything stands."""
    monkeypatch.setattr(simulation, "TURNS_MAX", 100)
    with pytest.raises(Broken, match=r"nothing settles: queues .*worker-0"):
        simulate(1)


@pytest.mark.soak
@pytest.mark.compiled
@pytest.mark.timeout(7_200)
def test_ten_thousand_seeds_settle():
    """The long version."""
    with multiprocessing.get_context("spawn").Pool() as pool:
        said = pool.imap_unordered(broken_of, range(100_000, 100_000 + SOAK_SEEDS), chunksize=SOAK_CHUNK)
        assert [] == [text for text in said if text]


@pytest.mark.soak
@pytest.mark.compiled
@pytest.mark.timeout(14_400)
def test_the_table_of_mutations():
    """Made anew: how many of a thousand seeds each mutation breaks. It is printed, for README.md."""
    rows = list(table_of(1_000, os.cpu_count() or 1))
    print("\n".join(rows))
    assert len(MUTATIONS) == len(rows)
