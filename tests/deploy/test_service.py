"""The systemd unit: it can be read, and says what the exchange needs."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ringpit.shards.cli import app
from ringpit.shards.config import Config
from ringpit.shards.exits import Exit
from ringpit.shards.layout import Role

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy/ringpit.service"
GUIDE = ROOT / "docs/bare-metal.md"


@pytest.fixture(scope="module")
def service():
    """The [Service] section."""
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.optionxform = str
    unit.read_string(UNIT.read_text())
    assert {"Unit", "Service", "Install"} == set(unit.sections())
    return unit["Service"]


@pytest.mark.parametrize("key", ["ExecStart", "ExecStartPre"])
def test_its_commands_are_ours(service, key):
    """A command that exists, with a configuration."""
    program, command, option, config = shlex.split(service[key])
    assert ("ringpit", "-c", "/etc/ringpit/ringpit.toml") == (Path(program).name, option, config)
    assert 0 == CliRunner().invoke(app, [command, "--help"]).exit_code


def test_it_waits_for_a_clean_stop_and_signals_the_supervisor_alone(service):
    """Longer than each role's patience, one after the other."""
    assert "mixed" == service["KillMode"]
    assert int(service["TimeoutStopSec"]) > len(Role) * Config().exchange.stop_seconds


def test_it_does_not_try_again_what_cannot_get_better(service):
    """The codes of a wrong configuration, data that may not be used, and lost ownership."""
    codes = [int(code) for code in service["RestartPreventExitStatus"].split()]
    assert [Exit.CONFIG, Exit.REFUSED, Exit.FENCED] == codes


def test_the_guide_names_findings_that_exist(tmp_path):
    """Each name in code in the last column of its tables, and in brackets, is a finding of the doctor; none is left out."""
    from ringpit.shards.doctor import examine

    names = {finding.name for finding in examine(Config(), tmp_path, 0.001, None)}
    text = GUIDE.read_text()
    tables = [row.split("|")[3] for row in text.splitlines() if row.startswith("| ") and "finding" not in row]
    named = {name for cell in tables for name in re.findall(r"`([^`]+)`", cell)}
    assert named <= names
    mentioned = set(re.findall(r"`([^`\n]+)`", text))
    assert names - mentioned <= {"other load"}
