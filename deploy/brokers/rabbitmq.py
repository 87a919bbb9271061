"""
One RabbitMQ node of our own, from Debian's package, without its service.

The package's scripts are run directly, with a node name, cookie, epmd, ports and folders of this node alone, so a RabbitMQ that
already runs on the machine (apt may have started one) is neither disturbed nor used. Everything listens on 127.0.0.1.

Ready means: the node answers an AMQP 0-9-1 greeting with Connection.Start. It opens its listeners as the last
step of its boot, so this is later than "the port is open" and needs no Erlang command line tool, each of which costs a second.
"""

# ruff: noqa: INP001  a folder that Python runs as a program, not a package that is imported
import os
import shutil
import subprocess
from pathlib import Path

from processes import MARK, BrokerError, exchange_bytes, mark

NAME = "rabbitmq"
PROGRAM = "beam.smp"
PORTS = ("RINGPIT_RABBITMQ_PORT", "RINGPIT_RABBITMQ_EPMD_PORT", "RINGPIT_RABBITMQ_DIST_PORT")
URL = "RINGPIT_RABBITMQ_URL"
SCRIPTS = (Path("/usr/lib/rabbitmq/bin"), Path("/usr/sbin"), Path("/usr/local/sbin"))
AMQP_GREETING = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = 1

# Limits are absolute: relative ones depend on the machine, and a low disk would block every publisher.
CONFIG = """\
listeners.tcp.local = 127.0.0.1:{port}
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 67108864
log.file.level = info
log.console = false
"""


def server_script() -> Path | None:
    """Return the package's server script, not the wrapper that changes the user; None if it is not installed."""
    for folder in SCRIPTS:
        script = folder / "rabbitmq-server"
        if script.exists():
            return script
    return None


def install() -> None:
    """
    Install the Debian package if it is missing. Needs root and apt-get; else raises BrokerError with the command.

    The node that the package would start by itself is not wanted: RUNLEVEL=1 tells invoke-rc.d so.
    """
    if server_script():
        return
    command = "apt-get install -y --no-install-recommends rabbitmq-server"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise BrokerError(
            f"RabbitMQ is not installed and only root can do it: {command}, or set {URL} to one that runs"
        )
    print("rabbitmq: installing the Debian package", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "rabbitmq-server"]):
        done = subprocess.run(
            [*apt, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BrokerError(
                f"{done.stdout[-2000:]}\n{command} failed: repair apt, or set {URL} to a RabbitMQ that runs"
            )
    if not server_script():
        raise BrokerError(f"{command} succeeded but there is no rabbitmq-server in {SCRIPTS[0]}")


def start(folder: Path, ports: dict[str, int], log: Path) -> subprocess.Popen:
    """Start the node on its data in `folder` (made when missing) and return its first process."""
    home = folder / NAME
    home.mkdir(parents=True, exist_ok=True)
    port, epmd_port, dist_port = (ports[name] for name in PORTS)
    (home / "rabbitmq.conf").write_text(CONFIG.format(port=port))
    (home / "enabled_plugins").write_text("[].\n")
    (home / "environment.conf").write_text("")  # read in place of the machine's /etc/rabbitmq/rabbitmq-env.conf
    # Erlang's schedulers would spin for work on cores that the tested processes need.
    erlang = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        MARK: mark(folder, NAME),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_CRASH_DUMP_SECONDS": "0",
        "RABBITMQ_NODENAME": f"ringpit-{port}@localhost",
        "RABBITMQ_DIST_PORT": str(dist_port),
        "RABBITMQ_CONF_ENV_FILE": str(home / "environment.conf"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(log.parent),
        "RABBITMQ_LOGS": str(log.with_suffix(".node.log")),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": erlang,
    }
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(server_script())],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def ready(ports: dict[str, int]) -> bool:
    """Return whether the node greets AMQP clients."""
    return exchange_bytes(ports[PORTS[0]], AMQP_GREETING, 1) == bytes([METHOD_FRAME])


def address(ports: dict[str, int]) -> str:
    """Return the URL that clients use. guest may log in over loopback only, which is all there is."""
    return f"amqp://guest:guest@127.0.0.1:{ports[PORTS[0]]}/%2F"
