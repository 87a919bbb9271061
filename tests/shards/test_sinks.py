"""Sinks: what is written where, when it counts, and what is said when it cannot be."""

import errno
import os
import resource
import signal
import threading

import pytest

from ringpit.shards.sinks import (
    JSON_LINES,
    PACKED,
    FileSink,
    Identity,
    MemorySink,
    NoSink,
    Sink,
    SinkFailed,
    StreamSink,
    Token,
    failure,
)

WHO = Identity(1, 0, 5, 0)
TOKEN = Token(1, 0, 10, 5, 0, True)


@pytest.fixture
def file_sink(tmp_path):
    """A sink into a folder that does not exist yet."""
    sink = FileSink(tmp_path / "out" / "deep")
    yield sink
    sink.close()


def test_each_topic_has_its_file(file_sink):
    """Reports, trades, prices and books go to files of their own, appended in order."""
    for line in (b'{"a":1}\n', b'{"a":2}\n'):
        file_sink.reports(0, line, 1, JSON_LINES, WHO)
    file_sink.trades(0, b'{"b":1}\n', 1, JSON_LINES, WHO)
    file_sink.price(0, b'{"c":1}\n', 1, JSON_LINES, WHO)
    file_sink.book(0, memoryview(b'{"d":1}\n'), 1, JSON_LINES, WHO)
    written = {path.name: path.read_bytes() for path in file_sink.folder.iterdir()}
    expected = {
        "reports.ndjson": b'{"a":1}\n{"a":2}\n',
        "trades.ndjson": b'{"b":1}\n',
        "prices.ndjson": b'{"c":1}\n',
        "books.ndjson": b'{"d":1}\n',
    }
    assert expected == written


def test_packed_reports_do_not_mix_with_lines(file_sink):
    """Records of another content type go to a file of another name."""
    file_sink.reports(0, bytes(64), 1, PACKED, WHO)
    assert ["reports.records"] == [path.name for path in file_sink.folder.iterdir()]


def test_written_is_confirmed(file_sink):
    """A file sink returns a token at the next poll, once, and is always ready and flushed."""
    assert file_sink.ready()
    assert file_sink.poll(0.0) is None
    file_sink.barrier(TOKEN)
    assert file_sink.flush(0.0)
    assert TOKEN == file_sink.poll(0.0)
    assert file_sink.poll(0.0) is None


@pytest.mark.parametrize(
    ("content_type", "before", "after"),
    [
        (JSON_LINES, b'{"a":1}\n{"a":', b'{"a":1}\n'),
        (JSON_LINES, b'{"a":1}\n', b'{"a":1}\n'),
        (JSON_LINES, b"torn from the start", b""),
        (JSON_LINES, b"x" * 100_000 + b"\n" + b"y" * 70, b"x" * 100_000 + b"\n"),
        (PACKED, bytes(64) + b"torn", bytes(64)),
        (PACKED, bytes(128), bytes(128)),
    ],
)
def test_torn_end_is_cut_off(tmp_path, content_type, before, after):
    """A restart appends behind the last whole line or record (S4)."""
    sink = FileSink(tmp_path)
    path = sink.path("reports", content_type)
    path.write_bytes(before)
    sink.reports(0, b"", 0, content_type, WHO)
    sink.close()
    assert after == path.read_bytes()


def test_full_disk_names_path_and_remedy():
    """A device without space ends the output with a sentence that says where and what to do."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(
            SinkFailed, match=r"cannot write /dev/full: no space left on the device: free some"
        ) as caught:
            StreamSink(descriptor, "/dev/full").reports(0, b"x\n", 1, JSON_LINES, WHO)
        assert errno.ENOSPC == caught.value.errno
    finally:
        os.close(descriptor)


def test_file_too_large_keeps_whole_lines(tmp_path):
    """What a write cut short left behind is gone at the next opening, and the failure names the file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sink = FileSink(tmp_path)
    path = sink.path("reports", JSON_LINES)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
        with pytest.raises(SinkFailed, match=f"cannot write {path}: "):
            sink.reports(0, b"a line\nanother line\na third line\n", 3, JSON_LINES, WHO)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        sink.close()
    assert b"a line\nanother line\n" == path.read_bytes()
    path.write_bytes(b"a line\nanother")
    again = FileSink(tmp_path)
    again.reports(0, b"another line\n", 1, JSON_LINES, WHO)
    again.close()
    assert b"a line\nanother line\n" == path.read_bytes()


def test_file_in_the_way_of_the_folder(tmp_path):
    """A folder that cannot be made is said so by its path."""
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SinkFailed, match=r"cannot write .*/out: a file of that name is in the way"):
        FileSink(tmp_path / "out")


def test_folder_in_the_way_of_a_file(tmp_path):
    """A file that cannot be opened is said so by its path."""
    (tmp_path / "reports.ndjson").mkdir()
    with pytest.raises(SinkFailed, match=r"reports.ndjson: a folder of that name is in the way"):
        FileSink(tmp_path).reports(0, b"x\n", 1, JSON_LINES, WHO)


def test_reader_that_left():
    """A closed pipe says that its reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with pytest.raises(SinkFailed, match="cannot write standard output: its reader has gone"):
            StreamSink(writing, "standard output").reports(0, b"x\n", 1, JSON_LINES, WHO)
    finally:
        os.close(writing)


def test_unknown_failure_repeats_the_system():
    """An error without a remedy of its own is told in the system's words."""
    assert "cannot write /x: Input/output error: see to it, or name another folder in exchange.data" == str(
        failure(OSError(errno.EIO, os.strerror(errno.EIO)), "/x").args[1]
    )


def test_slow_reader_gets_everything():
    """A payload larger than a non-blocking pipe is written whole, in order."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    payload = b"".join(b"%d\n" % number for number in range(100_000))
    got = bytearray()

    def read():
        while block := os.read(reading, 65_536):
            got.extend(block)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        sink = StreamSink(writing, "pipe")
        for send in (sink.reports, sink.trades, sink.price, sink.book):
            send(0, payload, 1, JSON_LINES, WHO)
    finally:
        os.close(writing)
        reader.join()
        os.close(reading)
    assert 4 * payload == bytes(got)


def test_memory_sink_confirms_when_told():
    """Tokens come back in order; one that is passed over is confirmed with the next (S2)."""
    sink = MemorySink(confirms=False)
    tokens = [TOKEN._replace(number=number) for number in range(4)]
    for token in tokens:
        sink.reports(7, b"x", 1, JSON_LINES, WHO)
        sink.barrier(token)
    assert sink.poll(0.0) is None
    assert not sink.flush(0.0)
    sink.confirm(2)
    assert tokens[1] == sink.poll(0.0)
    sink.confirm(2)
    assert tokens[3] == sink.poll(0.0)
    assert sink.flush(0.0)
    assert [("reports", 7, b"x", 1, JSON_LINES, WHO)] * 4 == sink.messages


def test_no_sink_confirms_at_once():
    """The empty sink takes everything and confirms it."""
    sink: Sink = NoSink()
    for send in (sink.reports, sink.trades, sink.price, sink.book):
        send(1, b"x", 1, JSON_LINES, WHO)
    sink.barrier(TOKEN)
    assert TOKEN == sink.poll(0.0)
    sink.close()
