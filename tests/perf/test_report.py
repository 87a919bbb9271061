"""The performance page: made from saved records, the same for the same, and nothing else on it."""

import json

import pytest

from ringpit.perf import __main__ as command_line
from ringpit.perf import harness
from ringpit.perf.load_report import KIND

MACHINE = {
    "model": "Z80",
    "cores": 2,
    "memory_gib": 1,
    "load": 0.5,
    "kernel": "Linux 6",
    "python": "3.11",
    "numba": "0.6",
    "numpy": "2",
}


def spread(median, lowest=None, highest=None):
    """A figure."""
    return {"median": median, "lowest": lowest or median, "highest": highest or median}


def record(name, at="2026-01-02T03:04:05", options=None, **figures):
    """A record as `harness.run` makes it."""
    return {
        "benchmark": name,
        "workload": f"what {name} does",
        "options": options or {},
        "at": at,
        "machine": MACHINE,
        "repeat": 10,
        "yardsticks": {"memory_copy_gb_per_s": spread(9.5)},
        "figures": figures,
        "facts": {},
    }


LOAD_RATE = {
    "rate": 1000.0, "achieved": 999.0, "late": 3, "kept_up": True,
    "latency_ns": {"p50": 2_500, "p90": 3_000, "p99": 40_000, "p99.9": 50_000, "p99.99": 60_000, "max": 7_000_000},
}  # fmt: skip
LOAD = {
    "kind": KIND, "at": "2026-01-02T03:04:05", "machine": MACHINE, "measured": "from due to report", "knee": 1000.0,
    "yardsticks": {"pointer_chase_ns": 100.0}, "rates": [LOAD_RATE],
    "workload": {"mix": "demo", "events": 2, "zipf": 0.0, "encoding": "packed", "frame": 1, "arrivals": "even", "seconds": 1.0, "seed": 7},
}  # fmt: skip


@pytest.fixture
def make(tmp_path, capsys):
    """Save files, make the page, and return (code, page, printed)."""

    def page(files):
        folder = tmp_path / "saved"
        folder.mkdir(exist_ok=True)
        for name, lines in files.items():
            (folder / name).write_text(
                "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
            )
        path = tmp_path / "docs" / "performance.md"
        code = command_line.main(["report", str(folder), "--page", str(path)])
        return code, path.read_text() if path.exists() else "", capsys.readouterr().out

    return page


def test_the_newest_of_each_kind_is_on_the_page_with_its_yardsticks(make):
    """Two runs of one benchmark: the later one's figure, its ends, machine, workload, yardstick and date."""
    old = record("ring", at="2026-01-01T00:00:00", per_s=spread(1.0))
    new = record("ring", per_s=spread(5.0, 4.0, 6.0))
    code, page, _ = make({"ring.jsonl": [old, new]})
    assert 0 == code
    for expected in (
        "## ring",
        "what ring does.",
        "| per_s | 5 (4 to 6) |",
        "| *memory_copy_gb_per_s* | 9.5 |",
        "2026-01-02",
        "Z80, 2 cores",
    ):
        assert expected in page
    assert "2026-01-01" not in page


def test_cases_stand_beside_each_other_by_size(make):
    """Options that vary head the columns; percentiles of several rates are drawn."""
    figures = {name: spread(1.0) for name in ("p50_us", "p99_us", "p99_9_us", "max_us")}
    cases = [record("latency", options={"rate": rate, "seconds": 1.0}, **figures) for rate in (5.0, 0.1, 1.0)]
    _, page, _ = make({"latency.jsonl": cases})
    assert "|  | rate 0.1 | rate 1.0 | rate 5.0 |" in page
    assert "Options: seconds 1.0." in page
    assert "![latency](performance/latency.png)" in page


def test_load_doctor_and_what_is_missing_have_their_sections(make, tmp_path):
    """Rate x percentile with its plot, findings, and the reasons why something was not measured."""
    finding = {"name": "isolation", "severity": "note", "found": "none", "why": "", "remedy": ""}
    refused = {"benchmark": "referee", "at": "2026", "machine": MACHINE, "cannot": "2 cores are needed"}
    _, page, _ = make(
        {
            "load-1.json": [LOAD],
            "doctor.jsonl": [finding],
            "referee.jsonl": [refused],
            "not-measured.txt": ["24 shards: this machine has 2 cores\n"],
        }
    )
    for expected in (
        "| 1,000 | 999 | 2.5 | 3.0 | 40.0 | 50.0 | 60.0 | 7,000 | 3 | yes |",
        "Microseconds from due to report.",
        "| isolation | note | none |",
        "| referee | 2 cores are needed |",
        "| 24 shards | this machine has 2 cores |",
    ):
        assert expected in page
    assert (tmp_path / "docs/performance/load-1.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_folder_gives_the_same_page(make):
    """Byte for byte."""
    files = {"ring.jsonl": [record("ring", per_s=spread(1.0))], "load-1.json": [LOAD]}
    assert make(files)[1] == make(files)[1]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [({}, "holds no saved record: run"), ({"ring.jsonl": ["{}\n"]}, "ring.jsonl, line 1 is no record"), ({"ring.jsonl": ["nonsense\n"]}, "line 1 is no record")],
)  # fmt: skip
def test_what_is_no_record_is_named(make, files, sentence):
    """Exit 2, the place, and what to do."""
    code, page, printed = make(files)
    assert (2, "") == (code, page)
    assert sentence in printed


def test_saving_makes_one_file_for_each_benchmark(tmp_path, monkeypatch):
    """`--save` appends to FOLDER/NAME.jsonl; what this machine cannot run is saved with its reason."""
    monkeypatch.setattr(harness, "BENCHMARKS", {})
    monkeypatch.setattr(command_line, "discover", lambda: None)

    @harness.benchmark("good", "works")
    def good(_arguments):
        return {"per_s": 1.0}

    @harness.benchmark("never", "does not")
    def never(_arguments):
        raise harness.CannotMeasureError("it needs a machine of its own")

    assert 0 == command_line.main(["good", "--repeat", "1", "--save", str(tmp_path)])
    assert 3 == command_line.main(["never", "--repeat", "1", "--save", str(tmp_path)])
    saved = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert {"good.jsonl", "never.jsonl"} == set(saved)
    assert "it needs a machine of its own" == saved["never.jsonl"]["cannot"]
    assert "save" not in saved["good.jsonl"]["options"]
