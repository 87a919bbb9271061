"""What a process has started, looked at while it changes: whoever is gone before it was asked is left out."""

import contextlib

import psutil


def named_children(pid: int) -> list[tuple[str, psutil.Process]]:
    """(name, process) of everything that a process started, and that these started; of what is dead too until it is buried."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    named = []
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            named.append((child.name(), child))
    return named


def ended(process: psutil.Process) -> bool:
    """
    True if a process is dead, buried or not.

    A dead one may lie unburied: in a container without init, or while its parent waits for a supervisor that was stopped.
    """
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def killed(process: psutil.Process, seconds: float) -> bool:
    """Kill a process and wait until it is buried; False if it was dead already, by itself or by an earlier kill."""
    if ended(process):
        return False
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    process.wait(seconds)
    return True
