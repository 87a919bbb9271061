"""The benchmark of snapshots, at a size of moments."""

import json

import pytest

from ringpit.perf import __main__ as command_line
from ringpit.perf import snapshot
from ringpit.perf.stage import LEVELS


@pytest.mark.compiled
@pytest.mark.parametrize("levels", list(LEVELS))
def test_what_is_written_comes_back(tmp_path, levels):
    """All orders, with one digest in all repeats, and nothing is left in the folder."""
    results, folder = tmp_path / "results.jsonl", tmp_path / "files"
    folder.mkdir()
    sizes = ("--events", "9", "--resting", "3000", "--levels", levels, "--folder", str(folder))
    assert 0 == command_line.main(["snapshot", "--repeat", "2", "--results", str(results), *sizes])
    record = json.loads(results.read_text())
    assert 3_000 == record["facts"]["orders"]
    assert 3_000 * 56 < record["facts"]["file_bytes"]
    assert [] == list(folder.iterdir())
    steps = {
        "export_ms",
        "write_sync_read_back_ms",
        "load_ms",
        "restore_ms",
        "bare_write_sync_ms",
        "bare_read_ms",
    }
    assert steps == set(record["figures"])


def test_damage_is_an_error():
    """What the store says is raised."""
    with pytest.raises(RuntimeError, match="torn"):
        snapshot.refuse("torn")
