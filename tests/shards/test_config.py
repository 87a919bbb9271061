"""A configuration is understood in full, or refused with one sentence that says what to do."""

import pickle
from pathlib import Path

import pytest

from ringpit.engine.limits import FRAME_SLOTS_MAX, Limits
from ringpit.shards.config import KEYS, Config, ConfigError, check, check_cores, explain, load, warnings
from ringpit.shards.sections import Cpu, Kafka, Placement, Rabbitmq, Rings

DEPLOY = Path(__file__).parents[2] / "deploy"
PASSWORD = "hunter2-and-more"  # noqa: S105  it is what must not be seen


@pytest.fixture
def write(tmp_path):
    """Writes a configuration file and gives its path."""

    def write(text: str, name: str = "ringpit.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path: Path | None, environment: dict[str, str] | None = None) -> str:
    """The sentence with which a configuration is refused, without the folder of its file."""
    with pytest.raises(ConfigError) as caught:
        load(path, environment or {})
    return str(caught.value).replace(f"{path.parent}/" if path else "/nowhere/", "")


def test_defaults():
    """Without a file and an environment everything has its default, and the defaults pass every rule."""
    config = load(None, {})
    assert Config() == config
    assert Limits() == config.limits.limits()
    assert (2, 1, "ring", "files", "segments") == (
        config.exchange.shards, config.exchange.routers, config.intake.source, config.output.sink, config.log.kind,
    )  # fmt: skip
    assert Path("data/log") == config.log_folder()
    assert config.rings.input_slots >= 2 * FRAME_SLOTS_MAX
    assert [] == warnings(config)


def test_every_section_of_a_file(write):
    """Values of every kind arrive; what the file does not say keeps its default."""
    config = load(
        write("""
            [exchange]
            name = "test-1"
            shards = 3
            [limits]
            orders = 1024
            [log]
            folder = "/var/log/ringpit"
            fsync = false
            [kafka]
            topic = "t"
            settings = {"linger.ms" = 5, "enable.ssl" = true, "ratio" = 0.5, "sasl.username" = "me"}
            [cpu]
            publisher = [0]
            workers = [1, [2, 3], 4]
            [placement.events]
            "7" = 1
            "-9" = 2
        """),
        {},
    )
    assert ("test-1", 3, 1) == (config.exchange.name, config.exchange.shards, config.exchange.routers)
    assert 1_024 == config.limits.limits().orders
    assert Path("/var/log/ringpit") == config.log_folder()
    assert {"linger.ms": 5, "enable.ssl": True, "ratio": 0.5, "sasl.username": "me"} == config.kafka.settings
    assert {7: 1, -9: 2} == config.placement.events
    assert [[1], [2, 3], [4], [0], [], []] == [
        *(config.cpu.cores("workers", shard) for shard in range(3)),
        config.cpu.cores("publisher"), config.cpu.cores("supervisor"), config.cpu.cores("journals", 2),
    ]  # fmt: skip


def test_each_kind_of_process_waits_as_it_is_told_or_else_as_all(write):
    """The keys of [wait] beside `mode` are for one kind of process each; empty ones follow `mode`."""
    config = load(write('[wait]\nmode = "spin-then-yield"\nworkers = "spin"\njournals = "sleep"\n'), {})
    kinds = ("routers", "workers", "journals", "publisher", "followers")
    expected = ["spin-then-yield", "spin", "sleep", "spin-then-yield", "spin-then-yield"]
    assert expected == [config.wait.mode_of(kind) for kind in kinds]
    assert {"sleep"} == {Config().wait.mode_of(kind) for kind in kinds}
    assert "$.wait.routers must be one of \"\", sleep, spin, spin-then-yield, was 'nap'; it is: " in refusal(
        write('[wait]\nrouters = "nap"\n')
    )


def test_environment_wins_over_file_and_file_over_default(write):
    """Each value comes from the strongest place that has it, and the explanation names that place."""
    path = write('[exchange]\nshards = 3\nname = "in-file"\n[cpu]\nworkers = [1, 2, 3]')
    config = load(
        path,
        {
            "RINGPIT__EXCHANGE__NAME": "7", "RINGPIT__CPU__WORKERS": "[[0], [1], [2]]",
            "RINGPIT__OUTPUT__MARKET_DATA": "false", "RINGPIT__PLACEMENT__EVENTS": '{"7" = 1}',
            "RINGPIT_KAFKA_BOOTSTRAP": "short:1", "RINGPIT__KAFKA__BOOTSTRAP": "long:1", "RINGPIT_OTHER": "x",
        },
    )  # fmt: skip
    told = {key: (value, source) for key, value, source in explain(config)}
    assert ("'7'", "RINGPIT__EXCHANGE__NAME") == told["$.exchange.name"]
    assert ("3", str(path)) == told["$.exchange.shards"]
    assert ("1", "default") == told["$.exchange.routers"]
    assert ("[[0], [1], [2]]", "RINGPIT__CPU__WORKERS") == told["$.cpu.workers"]
    assert ("false", "RINGPIT__OUTPUT__MARKET_DATA") == told["$.output.market_data"]
    assert ("'long:1'", "RINGPIT__KAFKA__BOOTSTRAP") == told["$.kafka.bootstrap"]
    assert {7: 1} == config.placement.events
    assert {f"$.{key}" for key in KEYS} == set(told)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[rings]\ninput_slots = 1000", "$.rings.input_slots must be a power of two, at least 16384, was 1000; write 16384"),
        ("[rings]\njournal_slots = 100000", "$.rings.journal_slots must be a power of two, at least 16384, was 100000; write 131072"),
        ("[rings]\noutput_slots = -1", "$.rings.output_slots must be a power of two, at least 16384, was -1; write 16384"),
        ("[rings]\ninput_slot = 1024", "$.rings.input_slot is no key of the configuration; did you mean rings.input_slots?"),
        ("[ring]\ninput_slots = 1024", "$.ring is no section of the configuration; did you mean rings?"),
        ("[sauces]\na = 'b'", "$.sauces is no section of the configuration; `ringpit check-config --explain` lists all"),
        ("[exchange]\nsink = 'files'", "$.exchange.sink is no key of the configuration; did you mean output.sink?"),
        ("rings = 5", "$.rings must be a table, was int; write [rings] above its keys"),
        ("[exchange]\nshards = 65", "$.exchange.shards must be int <= 64, was 65; it is: worker processes, 1 to 64, each with its part of the log; the default is 2"),
        ("[exchange]\nshards = 'two'", "$.exchange.shards must be int, was 'two'; it is: worker processes"),
        ("[exchange]\nshards = true", "$.exchange.shards must be int, was true; it is: worker processes"),
        ("[exchange]\nname = 'Ring Pit'", "$.exchange.name must be str matching regex '^[a-z0-9-]{1,32}\\\\Z', was 'Ring Pit'; it is: 1 to 32 of a-z"),
        ("[intake]\nsource = 'kafka'", "$.intake.source must be one of ring, rabbitmq, was 'kafka'; it is: another process"),
        ("[output]\ndepth = 0", "$.output.depth must be int >= 1, was 0; it is: levels of a book, 1 to 1000; the default is 10"),
        ("[output]\nmarket_data = 1", "$.output.market_data must be bool, was 1; it is: also trades"),
        ("[limits]\norders = 1000", "$.limits.orders must be a power of two, was 1000; it is: resting orders"),
        ("[limits]\nnodes = 1000", "$.limits.nodes must be a power of two, was 1000; it is: prices of skip lists"),
        ("[limits]\ngrids = 0", "$.limits.grids must be from 1 to 65536, was 0; it is: different tables"),
        ("[orders]\nself_trade = 'maker'", "$.orders.self_trade must be one of none, cancel_taker, cancel_maker, "),
        ("[limits]\nevents = 100000000000000000000000", "$.limits.events must be from 1 to 16777216, was 1000"),
        ("[cpu]\nworkers = [1]", "$.cpu.workers must have one entry for each of 2, was [1]; see $.exchange.shards; [] pins none"),
        ("[cpu]\nrouters = [1, 2]", "$.cpu.routers must have one entry for each of 1, was [1, 2]; see $.exchange.routers"),
        ("[cpu]\njournals = [1, 'x']", "$.cpu.journals must be int | array, was [1, 'x']; it is: one core number"),
        ("[cpu]\npublisher = 1", "$.cpu.publisher must be array, was 1; it is: core numbers; empty: not pinned"),
        ("[placement.events]\n7 = 2", "$.placement.events must name shards from 0 to 1, was {7: 2}; correct it or raise"),
        ("[placement.events]\nseven = 1", "$.placement.events must be int, was {'seven': 1}; it is: event id to shard"),
        ("[placement.events]\n9223372036854775808 = 1", "$.placement.events must be int <= 9223372036854775807, was"),
        ('[placement.ranges]\n"5..1" = 0', '$.placement.ranges must be like "1000..1999" = 2, the smaller id first'),
        ('[placement.ranges]\n"5-9" = 0', '$.placement.ranges must be like "1000..1999" = 2'),
        ('[placement.ranges]\n"5..9" = 0\n"9..12" = 1', "$.placement.ranges must not overlap, as 5..9 and 9..12 do"),
        ('[placement.ranges]\n"5..9" = 2', "$.placement.ranges must name shards from 0 to 1, was {'5..9': 2}"),
        ("[placement]\nreserved = [0, 1]", "$.placement.reserved must leave a shard for events that are not placed"),
        ("[placement.events]\n7 = -1", "$.placement.events must be int >= 0, was {'7': -1}"),
        ("[log]\nkind = 'kafka'\nbatch_bytes = 1000000", "$.log.batch_bytes must be from 262400 to 524288 for Kafka, was 1000000"),
        ("[kafka]\nsettings = {a = [1]}", "$.kafka.settings must be"),
        ("[kafka]\ntopic = 'a b'", "$.kafka.topic must be str matching regex"),
        ("[rabbitmq]\nurl = 'http://host'", "$.rabbitmq.url must be amqp:// or amqps:// with a host, was 'http://host'; write amqp://host:5672/%2F"),
        ("[rabbitmq]\nurl = 'amqp://'", "$.rabbitmq.url must be amqp:// or amqps:// with a host, was 'amqp://'"),
        ("[rabbitmq]\nurl = 'amqp://host:port'", "$.rabbitmq.url must be amqp:// or amqps:// with a host"),
        ("[rabbitmq]\nurl = 'amqp://[::1'", "$.rabbitmq.url must be amqp:// or amqps:// with a host"),
        ("[rabbitmq]\nurl = 'amqp://host/?heartbeat=5'", "$.rabbitmq.url must end with the virtual host"),
        ("[rabbitmq]\nca_file = 'ca.pem'", "$.rabbitmq.ca_file must be empty without TLS, was 'ca.pem'; write amqps:// in $.rabbitmq.url"),
        ("[rabbitmq]\nurl='amqps://h'\ncert_file = 'c.pem'", "$.rabbitmq.cert_file must go with a key_file, was 'c.pem'; give $.rabbitmq.key_file, too"),
        ("[rabbitmq]\nurl='amqps://h'\nkey_file = 'k.pem'", "$.rabbitmq.key_file must go with a cert_file, was 'k.pem'; give $.rabbitmq.cert_file, too"),
        ("[rabbitmq]\nurl='amqp://me:x@h'\nusername = 'you'", "$.rabbitmq.username must be empty if the url names a user, was 'you'"),
        ("[rabbitmq]\nprefetch = 0", "$.rabbitmq.prefetch must be int >= 1, was 0; it is: unacknowledged deliveries"),
        ("[rabbitmq]\nqueue = ''", "$.rabbitmq.queue must be str of length >= 1, was ''; the default is 'ringpit.orders'"),
        ("[rabbitmq]\nqueue = ", "must be TOML; Invalid value"),
    ],
)  # fmt: skip
def test_refusals_say_where_what_why_and_what_to_do(write, text, sentence):
    """A refusal begins with the file, names the key's path, the rule, the value and the remedy."""
    said = refusal(write(text))
    assert said.startswith(f"ringpit.toml: {sentence}"), said


def test_files_that_cannot_be_read(tmp_path):
    """A missing file, a folder, or bytes that are no text: said with the remedy."""
    assert "missing.toml: cannot be read (No such file or directory); give another one with -c, or none for the defaults" == refusal(
        tmp_path / "missing.toml"
    )  # fmt: skip
    assert "cannot be read (Is a directory)" in refusal(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9t\xe9")
    assert "latin.toml: must be UTF-8 text" in refusal(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("RINGPIT__RINGS__INPUT_SLOT", "1", "environment: RINGPIT__RINGS__INPUT_SLOT sets no key of the configuration; did you mean RINGPIT__RINGS__INPUT_SLOTS?"),
        ("RINGPIT__RINGS__INPUT_SLOTS", "many", "environment: RINGPIT__RINGS__INPUT_SLOTS must be a TOML value for $.rings.input_slots, was 'many'; it is: router to worker"),
        ("RINGPIT__RINGS__INPUT_SLOTS", "1000", "RINGPIT__RINGS__INPUT_SLOTS: $.rings.input_slots must be a power of two, at least 16384, was 1000"),
        ("RINGPIT__CPU__WORKERS", "1", "RINGPIT__CPU__WORKERS: $.cpu.workers must be array, was 1"),
        ("RINGPIT_RABBITMQ_URL", "host:5672", "RINGPIT_RABBITMQ_URL: $.rabbitmq.url must be amqp:// or amqps:// with a host, was 'host:5672'"),
    ],
)  # fmt: skip
def test_refusals_of_the_environment(variable, value, sentence):
    """What the environment sets is checked like the file, and named by its variable."""
    assert refusal(None, {variable: value}).startswith(sentence)


def everything_printed(config: Config) -> str:
    """All that a program could print of a configuration without asking for a secret by name."""
    parts = (config, config.rabbitmq, config.kafka, config.sources, explain(config), warnings(config))
    return " ".join(f"{part!r} {part!s}" for part in parts)


@pytest.mark.parametrize(
    "text",
    [
        f"[rabbitmq]\npassword = '{PASSWORD}'",
        f"[rabbitmq]\nurl = 'amqp://me:{PASSWORD}@host:5672/%2F'",
        f"[rabbitmq]\nurl = 'amqp://me:{PASSWORD}@ss@host:5672/%2F'",
        f"[kafka]\nsettings = {{'sasl.password' = '{PASSWORD}'}}",
        f"[kafka]\nsettings = {{'ssl.key.pem' = '{PASSWORD}'}}",
        f"[kafka]\nsettings = {{'sasl.jaas.config' = 'user {PASSWORD}'}}",
    ],
)
def test_secrets_are_used_and_never_shown(write, text):
    """A secret is itself where it is used, and stars in every repr, explanation and warning, also after pickling."""
    config = pickle.loads(pickle.dumps(load(write(text), {})))  # noqa: S301  our own bytes
    used = [config.rabbitmq.password, config.rabbitmq.url, *config.kafka.settings.values()]
    assert any(PASSWORD in value for value in used)
    assert PASSWORD not in everything_printed(config)
    assert "***" in everything_printed(config)


@pytest.mark.parametrize(
    "text",
    [
        f"[rabbitmq]\nurl = 'http://me:{PASSWORD}@host'",
        f"[rabbitmq]\nurl = 'amqp://me:{PASSWORD}@host:port'",
        f"[rabbitmq]\nurl = 'me:{PASSWORD}@host'",
        f"[rabbitmq]\npassword = ['{PASSWORD}']",
        f"[kafka]\nsettings = {{'sasl.password' = ['{PASSWORD}']}}",
        f"[kafka]\nsettings = '{PASSWORD}'",
        f"[kafka]\nsettings = {{'sasl.password' = '{PASSWORD}', other = [1]}}",
        f"[rabbitmq]\nusername = 'a'\nurl = 'amqp://me:{PASSWORD}@host'",
        f"[rabbitmq]\nurl = 'amqp://me:{PASSWORD}@host?a=b'",
        f"[rabbitmq]\npassword = '{PASSWORD}'\npassword_file = 'f'",
        f"rabbitmq = '{PASSWORD}'",
        f"[rabbitmq]\npassword = '{PASSWORD}",
    ],
)
def test_refusals_keep_secrets(write, text):
    """No refusal repeats a secret, wherever it stands and whatever is wrong with it."""
    assert PASSWORD not in refusal(write(text))


def test_password_from_a_file_or_the_environment(write):
    """The first line of password_file, or RINGPIT_RABBITMQ_PASSWORD; both at once is refused."""
    secret = write(f"{PASSWORD}\r\nsecond line\n", "password")
    path = write(f"[rabbitmq]\nusername = 'me'\npassword_file = '{secret}'")
    config = load(path, {})
    assert PASSWORD == config.rabbitmq.password
    assert PASSWORD not in everything_printed(config)
    assert ("$.rabbitmq.password", "'***'", str(secret)) in explain(config)
    assert [] == warnings(config)
    check(config)
    assert PASSWORD == load(None, {"RINGPIT_RABBITMQ_PASSWORD": PASSWORD}).rabbitmq.password
    assert "$.rabbitmq.password_file must be empty if there is a password" in refusal(
        path, {"RINGPIT_RABBITMQ_PASSWORD": "other"}
    )
    secret.unlink()
    assert "password: cannot be read (No such file or directory); correct $.rabbitmq.password_file" == refusal(
        path
    )


@pytest.mark.parametrize(
    "text",
    [
        f"# secrets\nsasl.username=me\nsasl.password = {PASSWORD}\n\n",
        f'"sasl.username" = "me"\n"sasl.password" = "{PASSWORD}"',
        f'sasl.username = "me"\nsasl.password = "{PASSWORD}"',
        f'[sasl]\nusername = "me"\npassword = "{PASSWORD}"',
    ],
)
def test_kafka_settings_from_a_file(write, text):
    """A settings file is key=value lines or TOML, its values join the others and are all hidden."""
    extra = write(text, "kafka.properties")
    config = load(write(f"[kafka]\nsettings = {{'linger.ms' = 5}}\nsettings_file = '{extra}'"), {})
    assert {"linger.ms": 5, "sasl.username": "me", "sasl.password": PASSWORD} == config.kafka.settings
    assert PASSWORD not in everything_printed(config)
    assert "'me'" not in everything_printed(config)
    assert str(extra) in config.sources["kafka.settings"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"{PASSWORD}", "kafka.properties: line 1 must be key=value or a # comment; correct it"),
        ("linger.ms=1\n", "kafka.properties: linger.ms is also in $.kafka.settings; keep one of them"),
        ("a = [1]\n", "kafka.properties: a must be a string, a number or a boolean; correct it"),
    ],
)
def test_bad_kafka_settings_files(write, text, sentence):
    """What is wrong in a settings file is said by line or name, without its values."""
    extra = write(text, "kafka.properties")
    assert sentence == refusal(write(f"[kafka]\nsettings = {{'linger.ms' = 5}}\nsettings_file = '{extra}'"))


def test_cores_that_do_not_exist():
    """A core outside the affinity mask is refused with the cores that there are; the others pass."""
    config = Config(cpu=Cpu(workers=[1, [2, 3]]), sources={"cpu.workers": "ringpit.toml"})
    check_cores(config, {0, 1, 2, 3})
    with pytest.raises(ConfigError) as caught:
        check_cores(config, {0, 1, 2})
    assert (
        "ringpit.toml: $.cpu.workers must name cores of this machine that we may use, was [1, [2, 3]]; "
        "core 3 is not among [0, 1, 2]"
    ) == str(caught.value)
    check_cores(Config())


def test_check_of_a_config_made_in_python():
    """Structs made without a file are checked by the same rules."""
    with pytest.raises(ConfigError, match=r"^default: \$\.rings\.input_slots must be"):
        check(Config(rings=Rings(input_slots=3)))
    with pytest.raises(ConfigError, match=r"\$\.placement\.events must name shards from 0 to 1, was \{7: 2\}"):
        check(Config(placement=Placement(events={7: 2})))
    assert PASSWORD not in repr(Rabbitmq(password=PASSWORD)) + repr(Kafka(settings={"my.secret": PASSWORD}))


def test_warnings(write):
    """What works but is seldom meant is said in sentences, one each."""
    config = load(
        write("""
            [rabbitmq]
            url = "amqp://me:x@far.example:5672/"
            password = "y"
            [intake]
            source = "rabbitmq"
            [output]
            release = "matched"
            [log]
            kind = "memory"
        """),
        {},
    )
    assert ["$.rabbitmq.url", "$.rabbitmq.password", "$.rabbitmq.url", "$.log.kind", "$.output.release"] == [
        sentence.split()[0] for sentence in warnings(config)
    ]
    assert ["$.kafka.replication"] == [s.split()[0] for s in warnings(load(write('[log]\nkind = "kafka"'), {}))]


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("ringpit*.toml")), ids=lambda path: path.name)
def test_sample_files_load(path):
    """Every sample configuration that is shipped passes every rule."""
    load(path, {})
