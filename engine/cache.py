"""
Where numba keeps its machine code: a folder named after the sources.

Numba's cache looks only at the file that holds a function. Edit a function or a constant in another file
and the old machine code would go on running; so the folder's name carries a digest of every source that
kernels come from, and an edit starts a fresh folder. NUMBA_CACHE_DIR, if set, wins.

Must run before the first kernel is defined: `ringpit.engine` calls it, so import that before `ringpit.ipc`.
"""

import hashlib
from pathlib import Path

from numba import config

KERNEL_FOLDERS = ("engine", "ipc", "wal", "shards", "perf", "tests/support")


def source_digest(root: Path) -> str:
    """Twelve hexadecimal digits over every Python source below the folders that hold kernels."""
    state = hashlib.sha256()
    for folder in (*KERNEL_FOLDERS, "testing"):
        for path in sorted((root / folder).glob("*.py")):
            state.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()[:12]


def use_cache_of_these_sources() -> None:
    """Point numba at this source tree's own cache folder, unless one was named."""
    if not config.CACHE_DIR:
        home = Path("~/.cache").expanduser()
        config.CACHE_DIR = str(home / "ringpit" / source_digest(Path(__file__).parent.parent))
