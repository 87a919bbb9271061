"""
The configuration: one TOML file, the environment over it, and sentences for whatever is wrong with it.

    environment  RINGPIT__RINGS__INPUT_SLOTS=32768      wins over
    file         [rings] input_slots = 65536            wins over
    default      shards/sections.py

`load` is the only door, and nobody else looks at the environment. A value in the environment is text
where the key is text, and otherwise written as in TOML: `[[2], [3]]`, `true`, `{"7" = 1}`. An error names
the place, the key's path, the value, the rule and the remedy; a secret is never repeated in one.

Where it is slow: a millisecond or two per load. A process gets the loaded struct; none loads again.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from ringpit.engine.limits import FRAME_SLOTS_MAX, power_of_two
from ringpit.shards.sections import Config, Kafka, Secret, SecretUrl, Section
from ringpit.wal.writer import BATCH_BYTES_LEAST

__all__ = ["Config", "ConfigError", "Secret", "check", "check_cores", "explain", "load", "warnings"]

ENVIRONMENT_PREFIX: Final = "RINGPIT__"
ENVIRONMENT_SHORTCUTS: Final = {  # the long form wins
    "RINGPIT_RABBITMQ_URL": "rabbitmq.url",
    "RINGPIT_RABBITMQ_PASSWORD": "rabbitmq.password",
    "RINGPIT_KAFKA_BOOTSTRAP": "kafka.bootstrap",
}
INGRESS_SLOTS_LEAST: Final = 3  # of a delivery: its header, and a command with its own
RING_SLOTS_MIN: Final = 1 << (2 * FRAME_SLOTS_MAX - 1).bit_length()  # a frame is written while another is read
KAFKA_BATCH_BYTES: Final = (BATCH_BYTES_LEAST, 512 << 10)  # a whole frame; below the broker's limit of 1 MB
CORE_LISTS: Final = {
    "routers": "routers",
    "workers": "shards",
    "journals": "shards",
    "followers": "shards",
}  # key of cpu, of exchange
STARS: Final = repr(Secret("hidden"))
SECRET_KEYS: Final = {"rabbitmq.password": Secret, "rabbitmq.url": SecretUrl}

SECTIONS: Final[dict[str, type[Section]]] = {
    name: hint for name, hint in get_type_hints(Config).items() if name != "sources"
}
KEYS: Final = {  # "rings.input_slots" -> its type with bounds and meaning
    f"{section}.{key}": hint
    for section, struct in SECTIONS.items()
    for key, hint in get_type_hints(struct, include_extras=True).items()
}
DEFAULTS: Final = Config()


class ConfigError(ValueError):
    """A configuration that cannot be used. The message says where, what, why, and what to do."""


def load(path: Path | str | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """
    The configuration of a file, or of defaults alone, under an environment (by default the process's own).

    Raises ConfigError with one sentence for the first thing that is wrong.
    """
    raw: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    for key, value, source in [
        *of_file(path),
        *of_environment(os.environ if environment is None else environment),
    ]:
        section, name = key.split(".")
        raw.setdefault(section, {})[name] = value
        sources[key] = source
    try:
        config = msgspec.convert(raw, Config, str_keys=True)
    except msgspec.ValidationError as error:
        raise translated(error, raw, sources) from None
    config = replace(config, sources=sources)
    check(config)
    return with_secrets(config)


def of_file(path: Path | str | None) -> Iterator[tuple[str, Any, str]]:
    """(key, value, source) of every key in a TOML file whose sections and keys are known."""
    if path is None:
        return
    for section, table in read_toml(Path(path), "give another one with -c, or none for the defaults").items():
        if section not in SECTIONS:
            raise ConfigError(
                f"{path}: $.{section} is no section of the configuration; {nearest(section, SECTIONS)}"
            )
        if not isinstance(table, dict):
            raise ConfigError(
                f"{path}: $.{section} must be a table, was {type(table).__name__}; write [{section}] above its keys"
            )
        for name, value in table.items():
            key = f"{section}.{name}"
            if key not in KEYS:
                raise ConfigError(f"{path}: $.{key} is no key of the configuration; {nearest(key, KEYS)}")
            yield key, value, str(path)


def of_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """(key, value, source) of every key that the environment sets: the shortcuts, then the long forms."""
    for variable, key in ENVIRONMENT_SHORTCUTS.items():
        if variable in environment:
            yield key, environment[variable], variable
    for variable in sorted(environment):
        if variable.startswith(ENVIRONMENT_PREFIX):
            key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            if key not in KEYS:
                names = {f"{ENVIRONMENT_PREFIX}{known.replace('.', '__').upper()}" for known in KEYS}
                raise ConfigError(
                    f"environment: {variable} sets no key of the configuration; {nearest(variable, names)}"
                )
            yield key, of_text(key, environment[variable], variable), variable


def of_text(key: str, text: str, variable: str) -> Any:
    """The value of a variable's text: itself for a text key, else read as TOML."""
    section, name = key.split(".")
    if isinstance(getattr(getattr(DEFAULTS, section), name), str):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        raise ConfigError(
            f"environment: {variable} must be a TOML value for $.{key}, was {shown(key, text)}; {meaning(key)}"
        ) from None


def read_toml(path: Path, remedy: str) -> dict[str, Any]:
    """The contents of a TOML file."""
    try:
        return tomllib.loads(read_text(path, remedy))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: must be TOML; {error}") from None


def read_text(path: Path, remedy: str) -> str:
    """The contents of a file, or ConfigError with the system's reason."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: must be UTF-8 text; {remedy}") from None


def nearest(name: str, known: Any) -> str:
    """The remedy for an unknown name."""
    elsewhere = [
        key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]
    ]  # under another section
    close = elsewhere or get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "`ringpit check-config --explain` lists all"


def meaning(key: str) -> str:
    """The remedy for a wrong value: what the key means and its default."""
    section, name = key.split(".")
    said = [meta.description for meta in getattr(KEYS[key], "__metadata__", ()) if meta.description]
    default = shown(key, getattr(getattr(DEFAULTS, section), name))
    return f"it is: {said[0]}; the default is {default}" if said else f"the default is {default}"


def shown(key: str, value: Any) -> str:
    """A value as messages and explanations show it: secrets as stars."""
    if key in SECRET_KEYS:
        return repr(SECRET_KEYS[key](value)) if isinstance(value, str) else STARS
    if key == "kafka.settings":
        return repr(Kafka(settings=value).settings) if isinstance(value, dict) else STARS
    return str(value).lower() if isinstance(value, bool) else repr(value)


def translated(
    error: msgspec.ValidationError, raw: dict[str, dict[str, Any]], sources: dict[str, str]
) -> ConfigError:
    """The sentence for a value of the wrong type or beyond its bounds."""
    text, _, path = str(error).rpartition(" - at ")
    found = re.match(r"`(?:key in )?\$\.(\w+)\.(\w+)", path.replace("`key` in `", "`key in "))
    key = f"{found[1]}.{found[2]}" if found else ""
    if key not in KEYS:
        return ConfigError(str(error))
    hint = KEYS[key].__origin__ if hasattr(KEYS[key], "__metadata__") else KEYS[key]
    if get_origin(hint) is Literal:
        rule = "must be one of " + ", ".join(word or '""' for word in get_args(hint))
    else:
        rule = "must be " + text.removeprefix("Expected ").partition(", got ")[0].replace("`", "")
    value = raw[found[1]][found[2]]  # type: ignore[index]  # a key that is known was found
    return ConfigError(f"{sources[key]}: $.{key} {rule}, was {shown(key, value)}; {meaning(key)}")


def check(config: Config) -> None:
    """Raise ConfigError for the first rule between keys that is broken."""
    for key, rule, remedy in broken_rules(config):
        section, name = key.split(".")
        value = shown(key, getattr(getattr(config, section), name))
        source = config.sources.get(key, "default")
        raise ConfigError(f"{source}: $.{key} {rule}, was {value}; {remedy}")


def broken_rules(config: Config) -> Iterator[tuple[str, str, str]]:
    """(key, rule, remedy) of every rule that a type cannot say."""
    try:
        config.limits.limits()
    except ValueError as error:
        key, _, rule = str(error).partition(" ")
        yield key, rule.rpartition(", was ")[0], meaning(key)
    for name in config.rings.__struct_fields__:
        slots = getattr(config.rings, name)
        if slots < RING_SLOTS_MIN or not power_of_two(slots):
            remedy = f"write {max(RING_SLOTS_MIN, 1 << (max(slots, 1) - 1).bit_length())}"
            yield f"rings.{name}", f"must be a power of two, at least {RING_SLOTS_MIN}", remedy
    for name, processes in CORE_LISTS.items():
        count = getattr(config.exchange, processes)
        if len(getattr(config.cpu, name)) not in {0, count}:
            yield (
                f"cpu.{name}",
                f"must have one entry for each of {count}",
                f"see $.exchange.{processes}; [] pins none",
            )
    yield from broken_placement_rules(config)
    if config.output.release == "matched" and config.output.encoding == "packed":
        yield (
            "output.encoding",
            'must be json with release = "matched"',
            "packed reports cannot say that they are provisional",
        )
    low, high = KAFKA_BATCH_BYTES
    if config.log.kind == "kafka" and not low <= config.log.batch_bytes <= high:
        yield "log.batch_bytes", f"must be from {low} to {high} for Kafka", "its brokers refuse larger messages"
    if config.log.kind == "memory" and config.follower.enabled:
        yield (
            "follower.enabled",
            'must be false with log.kind = "memory"',
            "a follower reads what the log holds: use segments or kafka",
        )
    yield from broken_rabbitmq_rules(config)


def broken_placement_rules(config: Config) -> Iterator[tuple[str, str, str]]:
    """The rules of where events live."""
    placement, last = config.placement, config.exchange.shards - 1
    for name, shards in (
        ("events", placement.events.values()),
        ("ranges", placement.ranges.values()),
        ("reserved", placement.reserved),
    ):
        if any(shard > last for shard in shards):
            yield (
                f"placement.{name}",
                f"must name shards from 0 to {last}",
                "correct it or raise $.exchange.shards",
            )
    if len(set(placement.reserved)) > last:
        yield "placement.reserved", "must leave a shard for events that are not placed", "leave one out"
    try:
        placement.rows()
    except ValueError as error:
        yield "placement.ranges", str(error).rpartition(", was ")[0] or str(error), "correct it"


def broken_rabbitmq_rules(config: Config) -> Iterator[tuple[str, str, str]]:
    """The rules of the section that has most of them."""
    rabbitmq = config.rabbitmq
    form = "write amqp://host:5672/%2F"
    try:
        parts = urlsplit(rabbitmq.url)
        sound = parts.scheme in {"amqp", "amqps"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
        sound = False
    if not sound:
        yield "rabbitmq.url", "must be amqp:// or amqps:// with a host", form
        return
    if parts.query or parts.fragment:
        yield "rabbitmq.url", "must end with the virtual host", "other settings have keys of their own"
    if parts.username and rabbitmq.username:
        yield "rabbitmq.username", "must be empty if the url names a user", "take it out of $.rabbitmq.url"
    from_file = config.sources.get("rabbitmq.password") == rabbitmq.password_file
    if rabbitmq.password and rabbitmq.password_file and not from_file:
        yield "rabbitmq.password_file", "must be empty if there is a password", "keep one of them"
    for name in ("ca_file", "cert_file", "key_file"):
        if getattr(rabbitmq, name) and parts.scheme != "amqps":
            yield f"rabbitmq.{name}", "must be empty without TLS", "write amqps:// in $.rabbitmq.url"
    for name, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if getattr(rabbitmq, name) and not getattr(rabbitmq, other):
            yield f"rabbitmq.{name}", f"must go with a {other}", f"give $.rabbitmq.{other}, too"


def with_secrets(config: Config) -> Config:
    """The configuration with what its secret files hold."""
    sources = dict(config.sources)
    rabbitmq, kafka = config.rabbitmq, config.kafka
    if rabbitmq.password_file:
        text = read_text(Path(rabbitmq.password_file), "correct $.rabbitmq.password_file")
        rabbitmq = replace(rabbitmq, password=text.partition("\n")[0].rstrip("\r"))
        sources["rabbitmq.password"] = rabbitmq.password_file
    if kafka.settings_file:
        extra = read_settings(Path(kafka.settings_file))
        twice = sorted(extra.keys() & kafka.settings.keys())
        if twice:
            raise ConfigError(
                f"{kafka.settings_file}: {twice[0]} is also in $.kafka.settings; keep one of them"
            )
        kafka = replace(kafka, settings={**kafka.settings, **extra})
        sources["kafka.settings"] = " and ".join(
            filter(None, (sources.get("kafka.settings"), kafka.settings_file))
        )
    return replace(config, rabbitmq=rabbitmq, kafka=kafka, sources=sources)


def read_settings(path: Path) -> dict[str, Any]:
    """
    librdkafka settings of a file, all of them secret: TOML, or lines of key=value and # comments.

    Which of the two is decided by whether it reads as TOML: `sasl.username=me` does not, `"sasl.username" = "me"` does.
    """
    text = read_text(path, "correct $.kafka.settings_file")
    try:
        settings = flattened(tomllib.loads(text))
    except tomllib.TOMLDecodeError:
        lines = [line.strip() for line in text.splitlines()]
        pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
        for number, line in enumerate(lines, 1):
            if line and not line.startswith("#") and not line.partition("=")[1]:
                raise ConfigError(
                    f"{path}: line {number} must be key=value or a # comment; correct it"
                ) from None
        settings = {name.strip(): value.strip() for name, _, value in pairs}
    for name, value in settings.items():
        if not isinstance(value, str | bool | int | float):
            raise ConfigError(f"{path}: {name} must be a string, a number or a boolean; correct it")
    return {name: Secret(value) if isinstance(value, str) else value for name, value in settings.items()}


def flattened(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """TOML reads `sasl.username = "me"` as a table in a table; librdkafka's names have dots."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat.update(
            flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        )
    return flat


def check_cores(config: Config, available: set[int] | None = None) -> None:
    """Raise ConfigError if a process is to run on a core that this process may not use (default: ask the system)."""
    cores = os.sched_getaffinity(0) if available is None else available
    for name in (*CORE_LISTS, "supervisor", "publisher"):
        value = getattr(config.cpu, name)
        for core in (core for entry in value for core in (entry if isinstance(entry, list) else [entry])):
            if core not in cores:
                source = config.sources.get(f"cpu.{name}", "default")
                raise ConfigError(
                    f"{source}: $.cpu.{name} must name cores of this machine that we may use, was {value}; "
                    f"core {core} is not among {sorted(cores)}"
                )


def warnings(config: Config) -> list[str]:
    """Sentences on what works and may not be meant."""
    parts = urlsplit(config.rabbitmq.url)
    plain = parts.scheme == "amqp" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}
    written = not config.sources.get("rabbitmq.password", "RINGPIT").startswith("RINGPIT")
    lasting = config.intake.source == "rabbitmq" and config.log.kind == "memory"
    said = {
        "$.rabbitmq.url holds a password; RINGPIT_RABBITMQ_PASSWORD or password_file keep it out of files": parts.password,
        "$.rabbitmq.password is in the file; RINGPIT_RABBITMQ_PASSWORD or password_file keep it out": written
        and not config.rabbitmq.password_file,
        "$.rabbitmq.url is not TLS and leaves this machine; amqps:// hides password and orders": plain,
        "$.log.kind is memory: orders are acknowledged and lost at the next stop": lasting,
        "$.kafka.replication is 1: the log dies with one broker": config.log.kind == "kafka"
        and config.kafka.replication == 1,
        "$.output.release is matched: reports are provisional and may be contradicted": config.output.release
        == "matched",
        "$.limits.keys is less than twice what can come again; a duplicate may be applied twice": config.limits.keys
        < 2 * unacknowledged_max(config),
    }
    return [sentence for sentence, holds in said.items() if holds]


def unacknowledged_max(config: Config) -> int:
    """Deliveries that can be unacknowledged at once, and so come again: the least that key windows must hold."""
    if config.intake.source == "rabbitmq":
        return config.exchange.routers * config.rabbitmq.prefetch
    return config.exchange.routers * config.rings.ingress_slots // INGRESS_SLOTS_LEAST


def explain(config: Config) -> list[tuple[str, str, str]]:
    """(path, value, source) of every key, as `check-config --explain` prints them; secrets are stars."""
    return [
        (f"$.{key}", shown(key, getattr(getattr(config, key.split(".")[0]), key.split(".")[1])), config.sources.get(key, "default"))
        for key in KEYS
    ]  # fmt: skip
