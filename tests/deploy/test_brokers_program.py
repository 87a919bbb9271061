"""deploy/brokers as a program: what it says and does where no broker runs. The real ones: test_real_brokers.py."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from ringpit.testing.brokers import PROGRAM, ROOT

COMMAND_SECONDS = 180.0  # the program itself gives a broker 120 to start
NAMED_ELSEWHERE = ("RINGPIT_RABBITMQ_URL", "RINGPIT_KAFKA_BOOTSTRAP", "RINGPIT_BROKERS_FOLDER")


def run(folder, *arguments, **environment):
    """Run the program on a folder of the test, with the caller's brokers out of sight."""
    clean = {name: value for name, value in os.environ.items() if name not in NAMED_ELSEWHERE}
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments, "--folder", str(folder)],
        env={**clean, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def test_down_without_up_is_harmless(tmp_path):
    """Stopping what never ran says so and succeeds."""
    done = run(tmp_path / "none", "down")
    assert (0, "rabbitmq: did not run\nkafka: did not run\n") == (done.returncode, done.stdout)
    assert not (tmp_path / "none").exists()


def test_status_of_nothing_exits_3(tmp_path):
    """Status names each broker that does not run."""
    done = run(tmp_path, "status")
    assert (3, "rabbitmq: does not run\nkafka: does not run\n") == (done.returncode, done.stdout)


@pytest.mark.parametrize("action", ["stop", "start", "restart", "kill"])
@pytest.mark.parametrize("name", ["rabbitmq", "kafka"])
def test_a_broker_that_was_never_started_is_named(tmp_path, action, name):
    """Acting on one broker of a new folder says which command comes first."""
    done = run(tmp_path, action, name)
    assert (1, f"brokers: {name} is not one of this folder's brokers: run `up` first\n") == (
        done.returncode,
        done.stderr,
    )


def test_env_of_nothing_names_the_file(tmp_path):
    """Asking for addresses that nobody wrote is an error, not an empty answer."""
    done = run(tmp_path, "env")
    assert 1 == done.returncode
    assert f"{tmp_path}/brokers.env does not exist" in done.stderr


def test_brokers_named_by_the_environment_are_used_as_they_are(tmp_path):
    """With both named, nothing is started, the addresses are passed on and the password is not printed."""
    named = {"RINGPIT_RABBITMQ_URL": "amqps://trader:secret@broker.example:5671/%2F?a=1&b=2"}
    named["RINGPIT_KAFKA_BOOTSTRAP"] = "one.example:9092,two.example:9092"
    done = run(tmp_path, "up", **named)
    assert 0 == done.returncode
    assert "rabbitmq: RINGPIT_RABBITMQ_URL names broker.example:5671; nothing started" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    kept = subprocess.run(
        ["sh", "-c", '. ./brokers.env; printf %s "$RINGPIT_RABBITMQ_URL $RINGPIT_KAFKA_BOOTSTRAP"'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert " ".join(named.values()) == kept.stdout


def test_missing_java_names_the_package(tmp_path):
    """Without Java on PATH, the sentence says what to install and nothing is left running."""
    done = run(tmp_path, "up", PATH=str(tmp_path), RINGPIT_RABBITMQ_URL="amqp://127.0.0.1:1/")
    assert 1 == done.returncode
    assert "java is not installed: apt-get install openjdk-17-jre-headless" in done.stderr


def test_down_ends_what_carries_the_mark_and_nothing_else(tmp_path):
    """A process with the folder's mark ends with it, even if it ignores SIGTERM; one with another mark stays."""
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    folder = tmp_path / "own"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", stubborn],
            env={**os.environ, "RINGPIT_BROKER": f"{where}:kafka"},
            stdout=subprocess.PIPE,
        )
        for where in (folder, tmp_path / "other")
    ]
    try:
        for child in children:
            child.stdout.readline()
        done = run(folder, "down")
        assert (0, "rabbitmq: did not run\nkafka: stopped\n") == (done.returncode, done.stdout)
        assert -signal.SIGKILL == children[0].wait(10)
        assert children[1].poll() is None
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()


def test_wrong_arguments_exit_2(tmp_path):
    """An unknown broker is refused with the names that exist."""
    done = run(tmp_path, "kill", "redis")
    assert 2 == done.returncode
    assert "'kafka', 'rabbitmq'" in done.stderr


@pytest.mark.brokers
def test_a_start_that_fails_shows_the_log(tmp_path):
    """A broker whose port is taken ends while starting: the end of its log is shown and nothing is left."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        port, controller_port = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        (tmp_path / "brokers.env").write_text(
            f"RINGPIT_KAFKA_PORT={port} RINGPIT_KAFKA_CONTROLLER_PORT={controller_port}"
        )
        done = run(tmp_path, "start", "kafka")
    assert 1 == done.returncode
    assert f"--- the end of {tmp_path}/log/kafka.log" in done.stderr
    assert "kafka ended while starting: see the log above" in done.stderr
    assert "kafka: does not run" in run(tmp_path, "status").stdout


def test_the_program_needs_the_standard_library_only():
    """Its modules import only each other and what Python brings, so that it runs before anything is installed."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import runpy; runpy.run_path(sys.argv[1], run_name='x')"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(PROGRAM)], cwd=ROOT, check=True, timeout=60)
