"""The benchmark of starts, at a size of moments."""

import json

import pytest

from ringpit.perf import __main__ as command_line


@pytest.mark.compiled
def test_every_start_comes_to_the_same_books(tmp_path):
    """Two starts from the same files, and nothing is left in the folder."""
    results, folder = tmp_path / "results.jsonl", tmp_path / "files"
    folder.mkdir()
    sizes = ("--events", "9", "--resting", "3000", "--tail", "2500", "--orders", "900", "--folder", str(folder))
    assert 0 == command_line.main(["recovery", "--repeat", "2", "--results", str(results), *sizes])
    record = json.loads(results.read_text())
    assert 2_500 + 25 == record["facts"]["records"]
    assert [] == list(folder.iterdir())
    figures = {
        "load_ms",
        "restore_ms",
        "log_ms",
        "start_seconds",
        "apply_mps",
        "replay_mps",
        "replay_referee_mps",
        "journal_ns",
    }
    assert figures == set(record["figures"])
