"""What keeps an exchange from starting or going on: one sentence that says what to do, and an exit code that is not 0."""

import os
import shutil
import socket
import subprocess
import threading

import pytest

from ringpit.ipc.segment import Segment, SegmentLayout
from ringpit.shards.exits import Exit
from ringpit.shards.layout import segment_name
from ringpit.wal.segment_files import SegmentFiles

DISK_BYTES = 4 << 20
HUGE_RING = 1 << 26  # slots of 64 bytes; a router has one ring for each shard
SHARDS_MAX = 64

pytestmark = pytest.mark.compiled


@pytest.fixture
def closed_port():
    """A port of this machine at which nobody listens: it is held, so nobody will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def other_server():
    """A port at which something other than a broker answers in HTTP, or says nothing at all."""
    servers = []

    def start(answer):
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def serve():
            try:
                client, _ = server.accept()
            except OSError:  # closed at the end of the test, without a visitor
                return
            with client:
                while client.recv(1024):
                    if answer:
                        client.sendall(answer)
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        servers.append(thread)
        return server.getsockname()[1]

    yield start
    for server, thread in zip(servers[::2], servers[1::2], strict=True):
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def refused(exchange, code):
    """Start an exchange that cannot start; the last line that it says, after the colon of who says it."""
    exchange.launch()
    assert code == exchange.wait(), exchange.said()
    assert "Traceback" not in exchange.said()
    assert [] == exchange.shared_memory()
    return exchange.said().splitlines()[-1]


def test_a_second_exchange_of_the_same_name_is_refused(exchange):
    """A name runs once on a machine; the sentence names the process that has it. The first one does not notice."""
    text = exchange.config_file.read_text()
    exchange.config_file.write_text(text.replace(str(exchange.data), f"{exchange.data}-other"))
    second = subprocess.run(
        [exchange.process.args[0], "run", "-c", exchange.config_file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert Exit.UNAVAILABLE == second.returncode
    assert f"exchange {exchange.name!r} is in use by process {exchange.process.pid}" in second.stderr
    assert "stop that ringpit first" in second.stderr
    assert 0 == exchange.stop(), exchange.said()


def test_a_second_exchange_on_the_same_folder_is_refused(exchange):
    """A data folder belongs to one exchange, whatever the other one is called."""
    text = exchange.config_file.read_text()
    exchange.config_file.write_text(text.replace(exchange.name, f"{exchange.name}-2"))
    second = subprocess.run(
        [exchange.process.args[0], "run", "-c", exchange.config_file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert Exit.UNAVAILABLE == second.returncode
    assert f"data folder {exchange.data} is in use by process {exchange.process.pid}" in second.stderr
    assert 0 == exchange.stop(), exchange.said()


def test_what_a_dead_run_of_another_version_left_is_removed(make_exchange):
    """A segment of another layout under our name, with nobody who holds the lock, is removed with a line, and we start."""
    exchange = make_exchange()
    name = segment_name(exchange.config, "board", 0, 0)
    with Segment.create(name, SegmentLayout("board", ("of", "another", "version"), version=99)):
        exchange.start()
        assert f"removed {name}, left in shared memory by a run that was killed" in exchange.said()
        assert 0 == exchange.stop(), exchange.said()


def test_a_missing_rabbitmq_is_named(make_exchange, closed_port):
    """Nobody listens at rabbitmq.url: the address, and what to do."""
    exchange = make_exchange(
        f'[intake]\nsource = "rabbitmq"\n[rabbitmq]\nurl = "amqp://guest:hidden@127.0.0.1:{closed_port}/"\n'
    )
    said = refused(exchange, Exit.UNAVAILABLE)
    assert f"no RabbitMQ answers at 127.0.0.1:{closed_port} (Connection refused): start it" in said
    assert "hidden" not in exchange.said()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["http", "silent"])
def test_what_is_no_rabbitmq_is_not_waited_for(make_exchange, other_server, answer):
    """Another program at rabbitmq.url, talkative or silent, is told from a broker before anything is started."""
    port = other_server(answer)
    exchange = make_exchange(f'[output]\nsink = "rabbitmq"\n[rabbitmq]\nurl = "amqp://127.0.0.1:{port}/"\n')
    said = refused(exchange, Exit.UNAVAILABLE)
    assert f"no RabbitMQ answers at 127.0.0.1:{port} (something listens there, but does not speak AMQP)" in said


def test_a_missing_kafka_is_named(make_exchange, closed_port):
    """No Kafka at kafka.bootstrap: the workers say so within connect_seconds, and the exchange ends."""
    exchange = make_exchange(
        f'[log]\nkind = "kafka"\n[kafka]\nbootstrap = "127.0.0.1:{closed_port}"\nconnect_seconds = 2\n'
    )
    refused(exchange, Exit.UNAVAILABLE)
    assert f"127.0.0.1:{closed_port}" in exchange.said()
    assert "start it, or correct kafka.bootstrap" in exchange.said()


def test_rings_beyond_the_shared_memory_are_refused(make_exchange):
    """Rings larger than /dev/shm: how much is missing, and the two ways to get it; nothing stays there."""
    exchange = make_exchange()
    disk = os.statvfs("/dev/shm")
    if disk.f_blocks * disk.f_frsize > SHARDS_MAX * HUGE_RING * 64:
        pytest.skip("this machine has room for the largest rings")
    text = exchange.config_file.read_text().replace("input_slots = 16384", f"input_slots = {HUGE_RING}")
    exchange.config_file.write_text(text.replace("stop_seconds", f"shards = {SHARDS_MAX}\nstop_seconds"))
    said = refused(exchange, Exit.REFUSED)
    assert "MiB are free: make rings or limits smaller, or run `mount -o remount" in said


def test_a_full_disk_under_the_log_is_said_and_mended(make_exchange, make_flow_on, small_disk):
    """The log's disk fills: a sentence, tries with growing pauses; when there is room again, nothing was lost."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(DISK_BYTES // 4 * 3))
    exchange = make_exchange(f'[log]\nfolder = "{small_disk}/log"\n').start()
    flow = make_flow_on(exchange, 30_000, seed=6)
    exchange.until(lambda: flow.offer_some() or "no room for the log in" in exchange.said(), "it is silent")
    exchange.until_said("free disk space or move log.folder")
    ballast.unlink()
    flow.finish()
    assert 0 == exchange.stop(), exchange.said()
    exchange.assert_published(flow.commands)


def test_a_full_disk_under_the_output_is_said_and_mended(make_exchange, make_flow_on, small_disk):
    """The disk of the output files fills: the publisher says so; when there is room again, every report is there, whole."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(DISK_BYTES // 8 * 7))
    exchange = make_exchange()
    exchange.data.mkdir()
    (exchange.data / "out").symlink_to(small_disk)
    exchange.start()
    flow = make_flow_on(exchange, 6_000, seed=7)
    exchange.until(
        lambda: flow.offer_some() or "publisher-0: ended with code" in exchange.said(), "it is silent"
    )
    sentence = (
        "cannot write {}: no space left on the device: free some, or name another folder in exchange.data"
    )
    files = (exchange.data / "out").glob("*.ndjson")  # whichever of them wanted more when there was none
    assert any(sentence.format(path) in exchange.said() for path in files), exchange.said()
    ballast.unlink()
    flow.finish()
    assert 0 == exchange.stop(), exchange.said()
    exchange.assert_published(flow.commands)


@pytest.mark.parametrize("file_bytes", [1 << 16, 1 << 26], ids=["one of many files", "the only file"])
def test_a_damaged_log_is_refused_with_the_position(make_exchange, make_flow_on, file_bytes):
    """One wrong bit in the middle of a log: the exchange does not start, names the file and the byte, and changes nothing."""
    exchange = make_exchange()
    exchange.environment["RINGPIT__LOG__SEGMENT_BYTES"] = str(file_bytes)
    flow = make_flow_on(exchange.start(), 5_000, seed=8, window=10)
    flow.finish()
    assert 0 == exchange.stop(), exchange.said()
    shutil.rmtree(exchange.config.snapshots_folder())  # or nothing that lies before one is read
    paths = SegmentFiles(exchange.config.log_folder(), 0).paths()
    assert (len(paths) > 1) == (file_bytes == 1 << 16)
    path = paths[0]
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    refused(exchange, Exit.REFUSED)
    assert f"{path} at byte " in exchange.said()
    assert "from a copy before starting" in exchange.said()
    assert damaged == path.read_bytes()


def test_a_data_folder_that_cannot_be_written_is_named(make_exchange):
    """The data folder cannot be made, for there is a file in its place: the path is named."""
    exchange = make_exchange()
    exchange.data.write_text("not a folder")
    said = refused(exchange, Exit.CONFIG)
    assert f"$.exchange.data must be a folder that can be written, was {exchange.data} (" in said
