"""The arrows of ARCHITECTURE.md: which layer may import what. Read from the syntax trees, so nothing has to be installed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "ringpit"
LAYERS = ("engine", "ipc", "wal", "shards")

MAY_IMPORT = {
    "engine": {"engine"},
    "ipc": {"ipc"},
    "wal": {"wal", "engine.limits", "engine.codes", "engine.records"},
    "shards": {"shards", "wal", "ipc", "engine"},
}
THIRD_PARTIES = {
    "engine": {"numpy", "numba", "llvmlite"},
    "ipc": {"numpy", "numba", "llvmlite"},
    "wal": {"numpy", "numba", "google_crc32c", "confluent_kafka"},
}
THIRD_PARTIES["shards"] = set().union(*THIRD_PARTIES.values()) | {
    "hdrh",
    "matplotlib",
    "msgspec",
    "pika",
    "psutil",
    "rich",
    "typer",
}

# What makes an answer depend on anything but the commands: the clock, the machine, chance, other threads.
IMPURE = {
    "asyncio",
    "concurrent",
    "ctypes",
    "datetime",
    "io",
    "mmap",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uuid",
    "zoneinfo",
}
# module -> why it may
IMPURE_ALLOWED = {
    "engine/cache.py": {"pathlib"},  # finds the folder of machine code, before any kernel exists
}

MODULES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def label(path):
    """Show a module as its path in the tree."""
    return str(path.relative_to(ROOT))


def imports(path):
    """Return the full names that a module imports anywhere in its body; relative ones resolved."""
    package = [NAMESPACE, *path.relative_to(ROOT).parent.parts]
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from ringpit.ipc import ring` names the module ringpit.ipc.ring, as far as this rule is concerned
            names += [
                f"{module}.{alias.name}" if module.startswith(NAMESPACE) else module for alias in node.names
            ]
    return names


def breach(layer, where, name):
    """Return why a layer may not import a name, or None if it may."""
    top, _, inner = name.partition(".")
    if top == NAMESPACE:
        if not any(f"{inner}.".startswith(f"{allowed}.") for allowed in MAY_IMPORT[layer]):
            return f"{layer} may import {sorted(MAY_IMPORT[layer])}, not {name}"
    elif top in sys.stdlib_module_names:
        if layer == "engine" and top in IMPURE - IMPURE_ALLOWED.get(where, set()):
            return f"engine is deterministic: no {top}"
    elif top not in THIRD_PARTIES[layer]:
        return f"{layer} may depend on {sorted(THIRD_PARTIES[layer])}, not on {top}"
    return None


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_imports_follow_the_arrows(path):
    """A layer imports itself, what lies below it, the standard library, and its own few third parties."""
    layer = path.relative_to(ROOT).parts[0]
    breaches = [why for name in imports(path) if (why := breach(layer, label(path), name))]
    assert [] == breaches


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("engine", "from ringpit.ipc import ring"),
        ("engine", "from ..ipc import ring"),
        ("engine", "from .. import wal"),
        ("engine", "import time"),
        ("engine", "def late():\n    import socket"),
        ("engine", "import pandas"),
        ("engine", "import engine.limits"),
        ("engine", "from engine import limits"),
        ("ipc", "from ringpit.engine import records"),
        ("wal", "from ringpit.engine import book"),
        ("wal", "from ringpit.engine.book import Book"),
        ("wal", "import pika"),
        ("shards", "from ringpit.testing import naive"),
        ("shards", "from ringpit.perf import ring"),
    ],
)
def test_the_rule_refuses(tmp_path, monkeypatch, layer, source):
    """Each way around the arrows is seen: absolute, relative, late, foreign, and under a second identity."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / layer / "sample.py"
    path.parent.mkdir()
    path.write_text(source)
    assert [why for name in imports(path) if (why := breach(layer, f"{layer}/sample.py", name))]


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("engine", "from ringpit.engine import limits"),
        ("engine", "from . import limits"),
        ("wal", "from ringpit.engine.records import COMMAND"),
        ("wal", "from ringpit.engine import records"),
        ("wal", "import threading"),
        ("shards", "import pika.exceptions"),
    ],
)
def test_the_rule_admits(tmp_path, monkeypatch, layer, source):
    """What the table allows passes."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / layer / "sample.py"
    path.parent.mkdir()
    path.write_text(source)
    assert [] == [why for name in imports(path) if (why := breach(layer, f"{layer}/sample.py", name))]


def test_nobody_imports_a_layer_under_a_second_name():
    """From the repository root Python could also `import engine`: another module object, with kernels of its own."""
    names = [
        f"{NAMESPACE}.{label(path)[:-3].replace('/', '.')}" for path in MODULES if path.name != "__main__.py"
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(sorted(set(sys.modules) & {set(LAYERS) | {'perf', 'testing'}!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout
    assert set() == set(sys.modules) & set(LAYERS)


def test_there_is_no_module_at_the_top_of_the_namespace():
    """`ringpit` is a namespace of mapped folders; a file of its own would end that."""
    assert not (ROOT / NAMESPACE).exists()
    assert not (ROOT / "__init__.py").exists()
