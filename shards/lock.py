"""
Lock files: one supervisor per exchange name and per data folder.

A lock is an flock on a file, so it ends with its process however that ends. The file itself is removed at
a clean exit.
"""

import fcntl
import os
from pathlib import Path
from typing import Final, Self

LOCKS: Final = Path("/tmp")  # noqa: S108 - fixed like /dev/shm, which the lock guards; TMPDIR differs between users


class AlreadyRunning(Exception):
    """Another supervisor holds the lock."""


class Lock:
    """An exclusive lock on a path; a context manager. Raises AlreadyRunning, or OSError with the path."""

    def __init__(self, path: Path, what: str) -> None:
        """`what` names what the lock stands for, in messages."""
        self.path = path
        self._what = what
        self._file = -1

    def __enter__(self) -> Self:
        """Take the lock now or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(file)
                raise AlreadyRunning(
                    f"{self._what} is in use by process {holder} ({self.path}): stop that ringpit first"
                ) from None
            if self._still_named(file):
                break
            os.close(file)  # its holder removed the name between our open and our lock
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        self._file = file
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove the name while the lock is held, then let go."""
        self.path.unlink(missing_ok=True)
        os.close(self._file)

    def _still_named(self, file: int) -> bool:
        """True if the path still leads to the file that we locked."""
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except FileNotFoundError:
            return False


def lock_of_name(name: str) -> Lock:
    """The lock of an exchange name: it names shared memory, so one machine runs it once."""
    return Lock(LOCKS / f"ringpit-{name}.lock", f"exchange {name!r}")


def lock_of_folder(folder: Path) -> Lock:
    """The lock of a data folder."""
    return Lock(folder / "ringpit.lock", f"data folder {folder}")
