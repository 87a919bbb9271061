"""What is installed: exactly the folders that are packages, under the one name `ringpit`."""

import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
NOT_SHIPPED = {"build", ".venv", ".git"}


def package_folders():
    """Return every folder of the tree that holds an __init__.py."""
    tops = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in NOT_SHIPPED]
    found = [init.parent for top in tops for init in top.rglob("__init__.py")]
    return {str(path.relative_to(ROOT)) for path in found}


def test_every_package_folder_is_listed():
    """A new folder with an __init__.py must be added to pyproject.toml, or its code would not be installed."""
    assert package_folders() == set(SETUPTOOLS["package-dir"].values())
    assert set(SETUPTOOLS["packages"]) == set(SETUPTOOLS["package-dir"])


@pytest.mark.parametrize("folder", sorted(SETUPTOOLS["package-dir"].values()))
def test_every_package_is_typed(folder):
    """Each package tells type checkers that its annotations count."""
    assert (ROOT / folder / "py.typed").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names in a wheel that is built here and now, from a copy of what git knows, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    program = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(folder)],
        cwd=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stdout[-2000:]
    return zipfile.ZipFile(next(folder.glob("*.whl"))).namelist()


def test_the_wheel_holds_one_top_level_name(wheel):
    """No generic `engine` or `tests` lands in site-packages."""
    tops = {name.split("/")[0] for name in wheel if ".dist-info/" not in name}
    assert {"ringpit"} == tops


def test_the_wheel_holds_every_module(wheel):
    """Each module of each package is in the wheel, and nothing else that is Python."""
    expected = {
        f"{package.replace('.', '/')}/{path.name}"
        for package, folder in SETUPTOOLS["package-dir"].items()
        for path in (ROOT / folder).glob("*.py")
    }
    assert expected == {name for name in wheel if name.endswith(".py")}


def test_the_wheel_holds_the_licence(wheel):
    """Whoever gets the wheel gets the licence with it."""
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_the_version_is_said_once():
    """The installed version is the one in pyproject.toml: there is no second one to forget."""
    assert PROJECT["project"]["version"] == importlib.metadata.version("ringpit")
    assert f"[{PROJECT['project']['version']}]" in (ROOT / "CHANGELOG.md").read_text()
