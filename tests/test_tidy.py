"""The house rules, as far as a program can check them. CONTRIBUTING.md gives the reasons."""

import ast
import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("engine", "ipc", "wal", "shards", "perf", "tests/support", "deploy")
MODULES = sorted({path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py")})
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if path not in MODULES)
TEXTS = sorted(
    path
    for pattern in ("*.py", "*.md", "*.toml", "*.yaml", "*.xml", "*.properties", "Makefile", "run")
    for path in ROOT.rglob(pattern)
    if not {"build", ".venv", ".git"} & set(path.relative_to(ROOT).parts) and "egg-info" not in str(path)
)
JIT_NAMES = {"njit", "jit", "vectorize", "guvectorize"}

# A function fits a screen. Those that did not when the rule came are listed with their length: they may only get shorter.
FUNCTION_LINES_MAX = 60
LONGER_FUNCTIONS: dict[str, int] = {"engine/machine.py::process": 83}

NOTES = re.compile(r"\b(TODO" + r"|FIXME" + r"|XXX" + r"|HACK)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.~])/(home|root|work|Users)/\w")
COMMENTED_CODE = re.compile(
    r"^#\s*((if|elif|for|while|with|def|class|try|except)\b.*:$|(return|import|from|raise|assert)\s+[\w.]+\(?|[\w.]+\(.*\)$|[\w.\[\]]+ \+?= \S+$)"
)


def label(path):
    """Show a file as its path in the tree."""
    return str(path.relative_to(ROOT))


@cache
def tree(path):
    """Return a module's syntax tree."""
    return ast.parse(path.read_text())


def functions(path):
    """Return every function of a module, methods and inner ones too."""
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def jit_decorator(function):
    """Return the numba decorator of a function, or None."""
    for decorator in function.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name in JIT_NAMES:
            return decorator
    return None


def kernels(path):
    """Return the functions of a module that numba compiles."""
    return [function for function in functions(path) if jit_decorator(function)]


def comments(path):
    """Return (line number, text) of each comment of a Python file."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]


def is_public(name):
    """Tell whether a name is meant for others."""
    return not name.startswith("_")


def public_definitions(path):
    """Return the public classes and functions of a module and the public methods of its public classes."""
    found = []
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and is_public(node.name):
            found.append(node)
            if isinstance(node, ast.ClassDef):
                found += [
                    inner for inner in node.body if isinstance(inner, ast.FunctionDef) and is_public(inner.name)
                ]
    return found


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_every_module_opens_with_an_essay(path):
    """A module says what it is before it does anything; only an empty __init__ has nothing to say."""
    assert (path.name == "__init__.py" and not path.read_text().strip()) or ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_every_public_name_is_explained(path):
    """Each public function, class and method has a docstring."""
    assert [] == [node.name for node in public_definitions(path) if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", TESTS, ids=label)
def test_every_test_states_a_fact(path):
    """Each test file and each test says what it proves."""
    unexplained = [
        each.name for each in functions(path) if each.name.startswith("test_") and not ast.get_docstring(each)
    ]
    assert ast.get_docstring(tree(path))
    assert [] == unexplained


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_kernels_are_cached(path):
    """Each kernel says cache=True: a shard must restart in milliseconds, not compile."""
    uncached = []
    for kernel in kernels(path):
        decorator = jit_decorator(kernel)
        keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
        if not any(each.arg == "cache" and getattr(each.value, "value", None) is True for each in keywords):
            uncached.append(kernel.name)
    assert [] == uncached


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_kernels_return_and_never_raise(path):
    """A kernel that raises leaks a reference to each of its arrays, and then shared memory cannot be closed."""
    raising = [
        f"{kernel.name}:{node.lineno}"
        for kernel in kernels(path)
        for node in ast.walk(kernel)
        if isinstance(node, ast.Raise | ast.Assert | ast.Try)
    ]
    assert [] == raising


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_kernels_access_fields_by_subscript(path):
    """`table[i]["field"]`, never `table[i].field`: the second form fails when the JIT is off."""
    by_attribute = [
        f"{kernel.name}:{node.lineno}"
        for kernel in kernels(path)
        for node in ast.walk(kernel)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Subscript)
        and node.attr not in {"shape", "size"}
    ]
    assert [] == by_attribute


@pytest.mark.parametrize("path", [path for path in MODULES if label(path).startswith("engine/")], ids=label)
def test_engine_kernels_use_integers_only(path):
    """No float and no true division in the engine: ticks and lots, the same on every machine."""
    floats = [
        f"{kernel.name}:{node.lineno}"
        for kernel in kernels(path)
        for node in ast.walk(kernel)
        if (isinstance(node, ast.Constant) and isinstance(node.value, float))
        or (isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div))
    ]
    assert [] == floats


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=label)
def test_every_except_names_what_it_expects(path):
    """A bare except would also swallow the order to stop."""
    bare = [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert [] == bare


@pytest.mark.parametrize("path", TESTS, ids=label)
def test_no_test_sleeps(path):
    """A test that waits polls a condition with a deadline; a sleep is either too short or too long."""
    sleeps = [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "sleep"
    ]
    assert [] == sleeps


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=label)
def test_functions_fit_a_screen(path):
    """No function is longer than the limit, but for the listed ones, which may only get shorter."""
    lengths = {f"{label(path)}::{each.name}": each.end_lineno - each.lineno + 1 for each in functions(path)}
    too_long = {
        name: lines for name, lines in lengths.items() if lines > LONGER_FUNCTIONS.get(name, FUNCTION_LINES_MAX)
    }
    assert {} == too_long


def test_the_list_of_longer_functions_is_tight():
    """A listed function that got shorter, moved or went must be corrected in the list: it is a ratchet."""
    lengths = {
        f"{label(path)}::{each.name}": each.end_lineno - each.lineno + 1
        for path in [*MODULES, *TESTS]
        for each in functions(path)
    }
    assert {name: lengths.get(name) for name in LONGER_FUNCTIONS} == LONGER_FUNCTIONS


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=label)
def test_no_code_is_commented_out(path):
    """Deleted code is in git; a comment that is code misleads."""
    suspects = [
        f"{line}: {text}" for line, text in comments(path) if COMMENTED_CODE.match(text) and parses(text)
    ]
    assert [] == suspects


def parses(comment):
    """Tell whether a comment's text alone would be Python (a block's head counts)."""
    text = comment.lstrip("# ").rstrip()
    try:
        ast.parse(text + "\n    pass" if text.endswith(":") else text)
    except SyntaxError:
        return False
    return True


@pytest.mark.parametrize("path", TEXTS, ids=label)
def test_no_stray_notes(path):
    """What is left to do is an issue in the tracker, not a note in the code."""
    if path != Path(__file__).resolve():
        assert [] == [line for line in path.read_text().splitlines() if NOTES.search(line)]


@pytest.mark.parametrize("path", TEXTS, ids=label)
def test_no_path_of_one_machine(path):
    """Nothing in the tree names a folder that exists on one machine only."""
    if path != Path(__file__).resolve():
        assert [] == [line for line in path.read_text().splitlines() if MACHINE_PATHS.search(line)]


@pytest.mark.parametrize("path", [path for path in MODULES if label(path).startswith("engine/")], ids=label)
def test_the_engine_knows_no_chance(path):
    """No random generator in the engine, numpy's neither: the same commands give the same reports."""
    chance = [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in {"random", "default_rng"}
    ]
    assert [] == chance


def test_every_tool_exception_has_a_reason():
    """Each rule that ruff or mypy is told to leave out carries the reason on its line, here and in the code."""
    text = (ROOT / "pyproject.toml").read_text()
    unexplained = []
    for table in re.findall(
        r'(?ms)^(?:ignore|"[^"\n]+") = \[\n(.*?)^\]', text.split("[tool.ruff.lint]")[1].split("[tool.mypy]")[0]
    ):
        unexplained += [line for line in table.splitlines() if line.strip() and "#" not in line]
    for line in text.split("[tool.mypy]")[1].split("[tool.coverage")[0].splitlines():
        if re.match(r"\w+ = (false|true|\"skip\")", line) and "strict" not in line and "#" not in line:
            unexplained.append(line)
    assert [] == unexplained


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=label)
def test_every_exception_in_the_code_has_a_reason(path):
    """`noqa` and `type: ignore` name the rule and say why."""
    silent = [
        f"{line}: {text}"
        for line, text in comments(path)
        if re.search(r"noqa|type: ignore", text)
        and not re.search(r"(noqa: [A-Z0-9, ]+|ignore\[[\w, -]+\])\s+\S.*\w", text)
    ]
    assert [] == silent
