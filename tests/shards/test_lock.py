"""A lock ends with its holder, and says who that is."""

import os
import subprocess
import sys
import tempfile

import pytest

from ringpit.shards.lock import AlreadyRunning, Lock, lock_of_folder, lock_of_name

HOLDER = """
import sys
from pathlib import Path
from ringpit.shards.lock import Lock
with Lock(Path(sys.argv[1]), "the pit"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a lock; it ends when its input does."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert b"held\n" == process.stdout.readline()
        yield process
        process.kill()


def test_a_lock_can_be_taken_once(tmp_path):
    """While it is held, it is refused, also within the process; afterwards it can be taken again."""
    for _ in range(2):
        with (
            Lock(tmp_path / "lock", "the pit"),
            pytest.raises(AlreadyRunning),
            Lock(tmp_path / "lock", "the pit"),
        ):
            pytest.fail("two hold it")
    assert [] == list(tmp_path.iterdir())


def test_a_refusal_names_the_holder(tmp_path, holder):
    """What is locked, the process that has it, the file, and what to do."""
    with pytest.raises(AlreadyRunning) as refusal, Lock(tmp_path / "lock", "the pit"):
        pytest.fail("two hold it")
    assert f"the pit is in use by process {holder.pid} ({tmp_path / 'lock'}): stop that ringpit first" == str(
        refusal.value
    )


def test_a_killed_holder_holds_nothing(tmp_path, holder):
    """SIGKILL leaves the file and frees the lock; the next holder writes its own number."""
    holder.kill()
    holder.wait()
    assert (tmp_path / "lock").exists()
    with Lock(tmp_path / "lock", "the pit"):
        assert str(os.getpid()) == (tmp_path / "lock").read_text()


def test_the_folder_of_a_lock_is_made(tmp_path):
    """A data folder that is not there yet is made with its lock."""
    with lock_of_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / "ringpit.lock").exists()


def test_a_lock_that_cannot_be_made_names_its_path(tmp_path):
    """A file where the folder should be: OSError with the path."""
    (tmp_path / "data").write_text("")
    with pytest.raises(OSError, match=str(tmp_path / "data")), lock_of_folder(tmp_path / "data"):
        pytest.fail("locked in a file")


def test_names_are_locked_one_by_one(tmp_path, monkeypatch):
    """Two exchanges of different names do not meet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with lock_of_name("one"), lock_of_name("two"), pytest.raises(AlreadyRunning, match="exchange 'one'"):
        lock_of_name("one").__enter__()
