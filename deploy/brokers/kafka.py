"""
One Apache Kafka node of our own, in KRaft mode, from its jars alone.

The jars come by Maven coordinates (deploy/kafka/pom.xml) into build/kafka-libs, once. A data folder is formatted at its first
start; after that it is only opened. Heap, compiler and collector are set for a short start on a small machine, not for
throughput: the first compiler tier and the serial collector.

Ready means: a Metadata request names one live broker. The port answers earlier than that, but a topic that is created
in between is refused.
"""

# ruff: noqa: INP001  a folder that Python runs as a program, not a package that is imported
import base64
import hashlib
import os
import secrets
import shutil
import struct
import subprocess
from pathlib import Path

from processes import MARK, BrokerError, exchange_bytes, mark

NAME = "kafka"
PROGRAM = "java"
PORTS = ("RINGPIT_KAFKA_PORT", "RINGPIT_KAFKA_CONTROLLER_PORT")
URL = "RINGPIT_KAFKA_BOOTSTRAP"
ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "deploy" / NAME
LIBRARIES = ROOT / "build" / "kafka-libs"
REASONS = "see the log above (Java 17 or later is needed, and room on the disk)"
HEAP = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
METADATA_REQUEST, METADATA_VERSION = 3, 4
REMEDY = f"or set {URL} to a Kafka that runs"


def require_program(name: str, package: str) -> None:
    """Raise BrokerError naming the Debian package if a program is not on PATH."""
    if not shutil.which(name):
        raise BrokerError(f"{name} is not installed: apt-get install {package}, {REMEDY}")


def install() -> None:
    """Fetch the jars if they are not there or the pom has changed. Raises BrokerError if Java or Maven is missing."""
    require_program("java", "openjdk-17-jre-headless")
    wanted = hashlib.sha256((RECIPE / "pom.xml").read_bytes()).hexdigest()
    stamp = LIBRARIES / "pom.sha256"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    require_program("mvn", "maven")
    print(f"kafka: fetching the jars to {LIBRARIES}", flush=True)
    partial = LIBRARIES.with_suffix(f".partial-{os.getpid()}")
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", str(RECIPE / "pom.xml"), *goal],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        raise BrokerError(f"{done.stdout[-2000:]}\nkafka: Maven could not fetch the jars: see above, {REMEDY}")
    (partial / stamp.name).write_text(wanted)
    shutil.rmtree(LIBRARIES, ignore_errors=True)
    partial.rename(LIBRARIES)


def java(*arguments: str) -> list[str]:
    """Return the command that runs a class from the jars."""
    logging = f"-Dlog4j2.configurationFile={RECIPE / 'log4j2.properties'}"
    return ["java", *HEAP, logging, "-cp", f"{LIBRARIES}/*", *arguments]


def start(folder: Path, ports: dict[str, int], log: Path) -> subprocess.Popen:
    """Start the node on its data in `folder` (formatted when new) and return its process."""
    home = folder / NAME
    home.mkdir(parents=True, exist_ok=True)
    properties = (RECIPE / "server.properties").read_text()
    port, controller_port = (ports[name] for name in PORTS)
    for name, value in (("port", port), ("controller_port", controller_port), ("data", home / "data")):
        properties = properties.replace(f"@{name}@", str(value))
    (home / "server.properties").write_text(properties)
    passed_on = {name: os.environ[name] for name in ("PATH", "HOME", "JAVA_HOME") if name in os.environ}
    environment = {**passed_on, "LANG": "C.UTF-8", MARK: mark(folder, NAME)}
    with log.open("ab") as output:
        if not (home / "data" / "meta.properties").exists():
            # A random id, but for its first byte: a leading dash would look like an option.
            cluster = base64.urlsafe_b64encode(b"R" + secrets.token_bytes(15)).decode().rstrip("=")
            format_data = ["format", "-t", cluster, "-c", str(home / "server.properties")]
            done = subprocess.run(
                java("kafka.tools.StorageTool", *format_data),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if done.returncode:
                raise BrokerError(f"kafka: formatting {home / 'data'} failed: {REASONS}")
        return subprocess.Popen(
            java("kafka.Kafka", str(home / "server.properties")),
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def ready(ports: dict[str, int]) -> bool:
    """Return whether a Metadata request about no topic names a live broker."""
    client = b"ringpit"
    request = struct.pack(">hhih", METADATA_REQUEST, METADATA_VERSION, 1, len(client)) + client
    request += struct.pack(">i?", 0, False)  # no topics; create none
    # The answer: its length, the correlation id, a throttle time, then the number of brokers.
    reply = exchange_bytes(ports[PORTS[0]], struct.pack(">i", len(request)) + request, 16)
    return len(reply) == 16 and struct.unpack(">iiii", reply)[3] > 0


def address(ports: dict[str, int]) -> str:
    """Return the bootstrap address that clients use."""
    return f"127.0.0.1:{ports[PORTS[0]]}"
