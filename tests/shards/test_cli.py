"""The `ringpit` command, run as a person runs it: what it prints, where, and its exit code."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec
import pytest

from ringpit.engine.records import COMMAND
from ringpit.shards.cli import StopRequest
from ringpit.shards.exits import Exit
from ringpit.shards.flow import flow, messages

RINGPIT = Path(sys.executable).with_name("ringpit")
CREATE = '{"Task": "CreateEvent", "ID": 7}'
BUY = '{"Task": "Order", "ID": 7, "Order": {"OrderID": 1, "Account": 3, "Side": "Buy", "Price": "0.55", "Quantity": 5}}'
SELL = '{"Task": "Order", "ID": 7, "Order": {"OrderID": 2, "Account": 4, "Side": "Sell", "PriceTicks": 55, "Quantity": 9}}'


def ringpit(*arguments, given=None, **environment):
    """Run the command to its end."""
    return subprocess.run(
        [RINGPIT, *map(str, arguments)],
        input=given,
        stdin=None if given is not None else subprocess.DEVNULL,
        capture_output=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("RINGPIT_")}
        | environment,
        check=False,
    )


def refusal(*arguments, **environment):
    """Run a command that must refuse its configuration; its one line."""
    done = ringpit(*arguments, **environment)
    assert (Exit.CONFIG, b"") == (done.returncode, done.stdout)
    (line,) = done.stderr.decode().splitlines()
    return line


@pytest.fixture
def config_file(tmp_path):
    """Write a configuration file."""

    def write(text):
        path = tmp_path / "ringpit.toml"
        path.write_text(text)
        return path

    return write


def test_help_names_every_command():
    """--help, and no command at all, list the commands with a line each."""
    done = ringpit("--help")
    assert 0 == done.returncode
    for command in (b"run", b"check-config", b"demo", b"replay", b"schema", b"query", b"wal"):
        assert command in done.stdout
    assert b"replay" in ringpit().stdout


def test_an_unknown_command_is_refused():
    """An unknown command: exit 2, and its name."""
    done = ringpit("serve")
    assert Exit.CONFIG == done.returncode
    assert b"serve" in done.stderr


@pytest.mark.parametrize("command", ["check-config", "run"])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[exchange]\nshard = 2\n", "$.exchange.shard is no key of the configuration; did you mean exchange.shards?"),
        ("[exchanges]\n", "$.exchanges is no section of the configuration; did you mean exchange?"),
        ('[exchange]\nshards = "2"\n', "$.exchange.shards must be int, was '2'; it is: worker processes"),
        ("[exchange]\nshards = 65\n", "$.exchange.shards must be int <= 64, was 65"),
        ("[rings]\ninput_slots = 20000\n", "must be a power of two, at least 16384, was 20000; write 32768"),
        ('[log]\nkind = "paper"\n', "$.log.kind must be one of segments, kafka, memory, was 'paper'"),
        ("[cpu]\nworkers = [4095, 4095]\n", "core 4095 is not among"),
        ("shards = \n", "must be TOML"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused(config_file, command, text, sentence):
    """One line with the file, the key, the value, the rule and the remedy; exit 2; nothing is started."""
    path = config_file(text)
    line = refusal(command, "-c", path)
    assert line.startswith(f"ringpit: {path}: ")
    assert sentence in line


def test_a_missing_configuration_is_refused(tmp_path):
    """A file that is not there: its path and the remedy."""
    path = tmp_path / "none.toml"
    assert f"ringpit: {path}: cannot be read (No such file or directory); give another one with -c" in refusal(
        "run", "-c", path
    )


def test_a_wrong_variable_is_refused():
    """The environment is a source like the file, and named as one."""
    line = refusal("check-config", RINGPIT__EXCHANGE__SHARDS="many")
    assert (
        "environment: RINGPIT__EXCHANGE__SHARDS must be a TOML value for $.exchange.shards, was 'many'" in line
    )


def test_check_config_explains_every_value(config_file):
    """--explain prints value and source of every key; passwords are stars."""
    path = config_file("[exchange]\nshards = 3\n")
    done = ringpit("check-config", "--explain", "-c", path, RINGPIT_RABBITMQ_URL="amqp://me:hidden@localhost/")
    assert 0 == done.returncode
    lines = done.stdout.decode().splitlines()
    assert f"$.exchange.shards = 3    # {path}" in lines
    assert "$.exchange.routers = 1    # default" in lines
    assert b"RINGPIT_RABBITMQ_URL" in done.stdout
    assert b"hidden" not in done.stdout + done.stderr
    assert done.stderr.decode().endswith("ringpit: the configuration is good\n")


def test_schema_prints_a_json_schema_and_the_packed_layout():
    """The first JSON object is a JSON Schema; the tables of the packed form follow."""
    done = ringpit("schema")
    assert (0, b"") == (done.returncode, done.stderr)
    text = done.stdout.decode()
    schema, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])
    assert "https://json-schema.org/draft/2020-12/schema" == schema["$schema"]
    assert f"COMMAND: {COMMAND.itemsize} bytes" in text


def test_replay_says_what_each_message_causes():
    """Creation, a resting bid and a sell that takes it: the reports in order, prices as the event writes them."""
    done = ringpit("replay", "-", given=f"{CREATE}\n{BUY}\n\n{SELL}\n".encode())
    assert (0, b"") == (done.returncode, done.stderr)
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    told = [(report["Seq"], report["Kind"], report.get("OrderID"), report.get("Leaves")) for report in reports]
    assert [
        (2, "EventCreated", None, None),
        (4, "Accepted", 1, 5),
        (6, "Accepted", 2, 9),
        (6, "FillMaker", 1, 0),
        (6, "FillTaker", 2, 4),
    ] == told
    assert "0.55" == reports[-1]["Price"]


def test_replay_names_lines_that_it_cannot_read(tmp_path):
    """Bad lines are told by their numbers, blank ones count, the rest is applied; exit 65."""
    path = tmp_path / "messages.ndjson"
    path.write_bytes(
        b"\n".join([CREATE.encode(), b"{", b"", b'{"Task": "Dance", "ID": 7}', b"\xff", BUY.encode()])
    )
    done = ringpit("replay", path)
    assert Exit.REFUSED == done.returncode
    assert [b"EventCreated", b"Accepted"] == [
        json.loads(line)["Kind"].encode() for line in done.stdout.splitlines()
    ]
    assert ["ringpit: line 2", "ringpit: line 4", "ringpit: line 5"] == [
        line.rsplit(": ", 1)[0][: len("ringpit: line N")] for line in done.stderr.decode().splitlines()
    ]


def test_replay_names_a_file_that_is_not_there(tmp_path):
    """A missing file: its path and what may be given; exit 2."""
    line = refusal("replay", tmp_path / "none")
    assert f"{tmp_path / 'none'} cannot be read (No such file or directory): name an NDJSON file, or -" in line


def test_replay_of_nothing_says_nothing():
    """No lines, no reports, exit 0."""
    done = ringpit("replay", "-", given=b"")
    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)


def test_replay_is_the_same_every_time(tmp_path):
    """The same lines give the same bytes: again, from standard input, and under another order of Python's hashes."""
    encode = msgspec.json.Encoder().encode_lines
    path = tmp_path / "messages.ndjson"
    commands = flow(5_000, seed=3)
    path.write_bytes(encode(list(messages(commands[commands["quantity"] <= 1 << 40]))))
    first = ringpit("replay", path, PYTHONHASHSEED="1")
    assert 0 == first.returncode, first.stderr
    assert len(commands) < len(first.stdout.splitlines())
    assert first.stdout == ringpit("replay", path, PYTHONHASHSEED="2").stdout
    assert first.stdout == ringpit("replay", "-", given=path.read_bytes()).stdout


def test_replay_ends_quietly_with_its_reader(tmp_path):
    """`ringpit replay FILE | head -1`: the reader leaves, and nobody complains."""
    path = tmp_path / "messages.ndjson"
    path.write_text("\n".join([CREATE, *[BUY] * 20_000]))
    with subprocess.Popen([RINGPIT, "replay", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as replay:
        assert b"EventCreated" in replay.stdout.readline()
        replay.stdout.close()
        assert b"" == replay.stderr.read()


def test_the_demonstration_does_not_empty_a_folder_that_it_did_not_make(tmp_path):
    """demo --data names a folder with other people's files: refused, and they are still there."""
    theirs = tmp_path / "thesis.txt"
    theirs.write_text("years of work")
    done = ringpit("demo", "--data", tmp_path)
    assert Exit.CONFIG == done.returncode
    assert b"holds files that it did not make: name another with --data" in done.stderr
    assert "years of work" == theirs.read_text()


@pytest.fixture
def stop_request():
    """The two signals, taken over for a while."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield StopRequest()
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_noted_once_somebody_looks(stop_request, number):
    """The first wants a stop, the second an end at once, and neither is raised; a third one is: whoever should look does not."""
    assert (False, False) == (stop_request.asked(), stop_request.at_once())
    stop_request.leave_if_at_once()
    for at_once in (False, True):
        signal.raise_signal(number)
        assert (True, at_once) == (stop_request.asked(), stop_request.at_once())
    assert number.name == stop_request.wanted
    for leave in (stop_request.leave_if_at_once, partial(signal.raise_signal, number)):
        with pytest.raises(SystemExit) as ended:
            leave()
        assert 128 + number == ended.value.code


def test_a_second_signal_before_anybody_looks_is_raised(stop_request):
    """While kernels are compiled nobody looks: the second one ends the command there, and counts if that is lost."""
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGINT)
    assert 128 + signal.SIGINT == ended.value.code
    assert stop_request.at_once()
