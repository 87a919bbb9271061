"""`ringpit doctor` as an operator calls it, and the jitter that it measures."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ringpit.ipc.segment import Segment
from ringpit.shards import jitter
from ringpit.shards.cli import app
from ringpit.shards.config import Config, load
from ringpit.shards.doctor import examine, pinned_cores, shared_bytes, wanted_cores


def asked(*arguments):
    """Run the command."""
    return CliRunner().invoke(app, ["doctor", "--seconds", "0.01", *arguments])


def test_each_finding_is_one_object_of_json():
    """Name, severity, found, why, remedy; the code says whether anything is bad."""
    done = asked("--json")
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"name", "severity", "found", "why", "remedy"} == set(findings[0])
    assert {"isolation", "clock source", "shared memory", "jitter", "steal"} <= {
        each["name"] for each in findings
    }
    assert int(any(each["severity"] == "bad" for each in findings)) == done.exit_code


def test_what_cannot_be_is_bad_and_the_code_says_so(tmp_path):
    """More shared memory than there is: exit 1, worst first, with the remedy."""
    config = tmp_path / "ringpit.toml"
    config.write_text("[exchange]\nshards = 64\n[rings]\njournal_slots = 67108864\noutput_slots = 67108864\n")
    done = asked("-c", str(config))
    assert 1 == done.exit_code
    assert done.stdout.startswith("bad")
    assert "mount -o remount,size=" in done.stdout


def test_a_core_that_may_not_be_used_is_refused_with_those_that_may():
    """Exit 2 and a sentence."""
    done = asked("--core", "4095")
    assert 2 == done.exit_code
    assert "was 4095: name one that this process may use" in done.stderr


def test_a_made_up_machine_is_examined_without_looking_at_this_one(tmp_path):
    """With an empty root everything but memory, cores and jitter is not shown."""
    findings = {each.name: each for each in examine(Config(), tmp_path, 0.01, None)}
    assert "not shown" == findings["clock source"].found
    assert "not shown" == findings["steal"].found


def test_bytes_are_those_of_the_segments_that_a_start_makes():
    """With followers a shard has two; without a ring of deliveries there is no ingress."""
    from ringpit.shards import layout

    config = load(None, {"RINGPIT__FOLLOWER__ENABLED": "true", "RINGPIT__EXCHANGE__SHARDS": "3"})
    plain = load(None, {"RINGPIT__EXCHANGE__SHARDS": "3"})
    worker = layout.worker_layout(config).bytes_total
    board = layout.board_layout(config).bytes_total - layout.board_layout(plain).bytes_total
    assert 3 * worker + board == shared_bytes(config) - shared_bytes(plain)
    assert (8, 11) == (wanted_cores(plain), wanted_cores(config))


def test_pinned_cores_are_found_in_lists_of_lists():
    """One number or a list of them for each process."""
    config = load(None, {"RINGPIT__CPU__WORKERS": "[[2, 3], 4]", "RINGPIT__CPU__SUPERVISOR": "[0]"})
    assert [0, 2, 3, 4] == sorted(pinned_cores(config))


def test_jitter_counts_readings_and_puts_the_affinity_back():
    """Every reading is in one histogram; gaps are among them, the longest is no shorter than the percentile's bucket begins."""
    before = os.sched_getaffinity(0)
    seen = jitter.measure(0.02)
    assert before == os.sched_getaffinity(0)
    assert max(before) == seen.core
    assert 0 <= seen.gaps <= seen.readings
    assert 0 < seen.readings
    assert 0 <= seen.lost_fraction <= 1
    assert seen.seconds >= 0.02


@pytest.mark.parametrize("until_ns", [0, -1])
def test_a_spin_that_is_over_reads_nothing(until_ns):
    """It returns the first reading."""
    from ringpit.ipc import histogram

    counts, cells = histogram.empty(), histogram.empty()[:4].copy()
    assert until_ns < jitter.spin(until_ns, counts, cells)
    assert 0 == counts.sum() == cells.sum()


def test_no_segment_is_made(monkeypatch):
    """The doctor looks and changes nothing."""
    monkeypatch.setattr(Segment, "create", None)
    assert [] != examine(Config(), Path("/"), 0.01, None)
