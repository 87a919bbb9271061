"""Links to RabbitMQ: settings, secrets, what is read from the wire, and a broker that is away or says no."""

import datetime as dt
import logging
import os
import socket
import ssl
import struct
import subprocess
import time

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.shards.amqp import BrokerRefused, Endpoint, Link, LinkState
from ringpit.shards.wire import Properties, publish_frames, publish_method, read_properties

DEADLINE_SECONDS = 20.0
SECRET = "do-not-print-this"  # noqa: S105 - made up here


def encoded(**properties):
    """A property list as pika writes it."""
    return b"".join(pika.BasicProperties(**properties).encode())


def polled(link, holds, seconds=DEADLINE_SECONDS):
    """Poll until it holds, or fail."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not come to hold in time; the link is {link.state}"
        link.poll(0.02)


def plain_set_up(_channel, done):
    """Nothing to declare."""
    done()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "http://host"}, "rabbitmq.url must start with amqp:// or amqps://, was http://"),
        ({"url": "amqp:///vhost"}, "rabbitmq.url must name a host: amqp://host:5672/"),
        ({"url": "amqp://host:99999/"}, "rabbitmq.url must name a port from 1 to 65535"),
        ({"url": "amqp://host/?heartbeat=3"}, "rabbitmq.url must end with the virtual host"),
        ({"heartbeat_seconds": 0}, "rabbitmq.heartbeat_seconds must be at least 1, was 0"),
        ({"connect_timeout_seconds": 0}, "rabbitmq.connect_timeout_seconds must be above 0, was 0"),
        ({"url": "amqps://host", "key_file": "k"}, "must be given together"),
        ({"ca_file": "ca.pem"}, "need an amqps:// url"),
    ],
)
def test_a_bad_setting_names_itself_and_the_rule(settings, message):
    """Every setting that cannot work is refused when the endpoint is made."""
    with pytest.raises(ValueError, match="rabbitmq") as caught:
        Endpoint(**settings)

    assert message in str(caught.value)


def test_secrets_are_in_the_parameters_and_nowhere_else():
    """User name and password reach pika, and neither repr nor str shows them."""
    by_url = Endpoint(url=f"amqp://{SECRET}%40user:{SECRET}@host/vh%2F1")
    by_setting = Endpoint(url="amqp://host", username=SECRET, password=SECRET)

    assert f"{SECRET}@user" == by_url.parameters().credentials.username
    assert "vh/1" == by_url.parameters().virtual_host
    assert SECRET == by_setting.parameters().credentials.password
    for endpoint in (by_url, by_setting):
        assert SECRET not in repr(endpoint) + str(endpoint) + repr(endpoint.parameters())
    assert "Endpoint(amqp://***@host:5672)" == repr(by_setting)


def self_signed(folder):
    """A certificate for localhost that signs itself."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


def test_tls_checks_certificate_and_host_name(tmp_path):
    """An amqps url makes a context that demands a certificate for the host; our own is loaded when given."""
    key, certificate = self_signed(tmp_path)
    endpoint = Endpoint(
        url="amqps://localhost", ca_file=str(certificate), certificate_file=str(certificate), key_file=str(key)
    )
    options = endpoint.parameters().ssl_options

    assert 5671 == endpoint.parameters().port
    assert "localhost" == options.server_hostname
    assert ssl.CERT_REQUIRED == options.context.verify_mode
    assert options.context.check_hostname
    assert ["localhost"] == [entry["subject"][0][0][1] for entry in options.context.get_ca_certs()]


@pytest.mark.parametrize("setting", ["ca_file", "certificate_file"])
def test_a_missing_tls_file_is_named(setting, tmp_path):
    """A file that cannot be read is refused when the link is made, not at the first connection."""
    path = str(tmp_path / "nosuch.pem")
    files = {setting: path} | ({"key_file": path} if setting == "certificate_file" else {})
    with pytest.raises(ValueError, match=f"rabbitmq.{setting}.*nosuch.pem"):
        Link("test", Endpoint(url="amqps://localhost", **files), plain_set_up, print)


def test_an_untrusted_certificate_is_refused_with_the_remedy(tmp_path):
    """A broker whose certificate nobody vouches for ends the first attempt with a sentence."""
    key, certificate = self_signed(tmp_path)
    command = ["openssl", "s_server", "-quiet", "-key", str(key), "-cert", str(certificate), "-accept"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    link = Link("test", Endpoint(url=f"amqps://localhost:{port}"), plain_set_up, lambda _: None)
    try:
        with pytest.raises(BrokerRefused, match=r"TLS: CERTIFICATE_VERIFY_FAILED; set rabbitmq.ca_file"):
            polled(link, lambda: link.ready)
    finally:
        link.close()
        server.kill()
        server.wait()


def test_our_properties_are_read_from_between_the_others():
    """All fourteen properties present: the four that we use come out."""
    properties = encoded(
        content_type="application/json",
        content_encoding="utf-8",
        headers={"a": 1, "b": [1, "x", {"c": None}]},
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="1",
        message_id="m-1",
        timestamp=1,
        type="t",
        user_id="u",
        app_id="a",
        cluster_id="k",
    )

    assert Properties(b"application/json", b"m-1", b"u", b"a") == read_properties(properties)


SHORT_TEXT = st.text(max_size=60)


@given(
    content_type=SHORT_TEXT,
    message_id=SHORT_TEXT,
    user_id=SHORT_TEXT,
    app_id=SHORT_TEXT,
    priority=st.integers(0, 9),
)
def test_properties_that_pika_writes_are_read_back(content_type, message_id, user_id, app_id, priority):
    """Whatever texts a publisher sets, the same bytes come out."""
    texts = {"content_type": content_type, "message_id": message_id, "user_id": user_id, "app_id": app_id}
    properties = encoded(**texts, priority=priority, headers={"x": "y"})

    assert Properties(**{name: text.encode() for name, text in texts.items()}) == read_properties(properties)


@given(st.binary(max_size=80))
def test_no_property_list_makes_reading_fail(garbage):
    """Garbage reads as some properties, each a piece of what came."""
    assert all(piece in garbage for piece in read_properties(garbage))


@given(body=st.binary(max_size=300), chunk_bytes=st.integers(1, 64), mandatory=st.booleans())
def test_published_frames_are_what_pika_reads(body, chunk_bytes, mandatory):
    """pika's decoder finds the method, the properties and the body in our frames."""
    properties = encoded(content_type="text/plain", message_id="m")
    method = publish_method("exchange", "key.1", mandatory=mandatory)
    frames, rest = [], publish_frames(7, method, properties, body, chunk_bytes)
    while rest:
        consumed, frame = pika.frame.decode_frame(rest)
        frames.append(frame)
        rest = rest[consumed:]

    assert {7} == {frame.channel_number for frame in frames}
    assert ("exchange", "key.1", mandatory) == (
        frames[0].method.exchange,
        frames[0].method.routing_key,
        frames[0].method.mandatory,
    )
    assert ("text/plain", "m", len(body)) == (
        frames[1].properties.content_type,
        frames[1].properties.message_id,
        frames[1].body_size,
    )
    assert body == b"".join(frame.fragment for frame in frames[2:])


def test_a_name_too_long_for_amqp_is_refused():
    """Exchange and routing key are at most 255 bytes."""
    with pytest.raises(ValueError, match="at most 255 bytes, was 256"):
        publish_method("e", "k" * 256, mandatory=False)


def test_a_missing_broker_is_said_once_with_the_remedy(caplog):
    """Attempts go on with growing pauses; one line names host, port and what to do, without credentials."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connecting is refused
        port = taken.getsockname()[1]
        lines = []
        with caplog.at_level(logging.DEBUG):
            link = Link(
                "test", Endpoint(url=f"amqp://{SECRET}:{SECRET}@127.0.0.1:{port}/"), plain_set_up, lines.append
            )
            polled(link, lambda: link.attempts >= 4)
            link.close()

    assert 1 == len(lines)
    assert f"test: no RabbitMQ at 127.0.0.1:{port} (Connection refused)" in lines[0]
    assert "start it (make brokers)" in lines[0]
    assert SECRET not in lines[0] + caplog.text
    assert LinkState.CLOSED is link.state


def test_a_listener_that_never_answers_is_given_up():
    """A port that accepts and says nothing counts as a missing broker after the time-out."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        lines = []
        endpoint = Endpoint(url=f"amqp://127.0.0.1:{mute.getsockname()[1]}", connect_timeout_seconds=0.2)
        link = Link("test", endpoint, plain_set_up, lines.append)
        polled(link, lambda: lines)
        link.close()

    assert "no RabbitMQ at" in lines[0]


@pytest.mark.brokers
def test_a_link_can_be_closed_at_any_moment(rabbitmq_url, endpoint_of):
    """Before, in the middle of and after the handshake: nothing is raised, nothing is left open."""
    for turns in range(12):
        link = Link("test", endpoint_of(rabbitmq_url), plain_set_up, lambda _: None)
        for _ in range(turns):
            link.poll(0.002)
        link.close()

        assert LinkState.CLOSED is link.state


@pytest.mark.brokers
def test_a_wrong_password_is_refused_without_being_shown(rabbitmq_url, endpoint_of, caplog):
    """The first attempt ends with a sentence about the login, not with the login."""
    link = Link("test", endpoint_of(rabbitmq_url, username="nobody", password=SECRET), plain_set_up, print)
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(BrokerRefused, match="login refused; check user name") as caught,
    ):
        polled(link, lambda: link.ready)

    assert SECRET not in str(caught.value) + caplog.text
    assert LinkState.CLOSED is link.state


@pytest.mark.brokers
def test_a_queue_with_other_arguments_is_refused_with_the_remedy(rabbitmq_url, endpoint_of):
    """A declaration that contradicts what exists is a hard error that says what to delete."""
    name = f"ringpit.test.{os.getpid()}.refused"

    def set_up(arguments):
        return lambda channel, done: channel.queue_declare(
            name, durable=True, arguments=arguments, callback=done
        )

    first = Link("test", endpoint_of(rabbitmq_url), set_up({"x-queue-type": "quorum"}), print)
    polled(first, lambda: first.ready)
    second = Link("test", endpoint_of(rabbitmq_url), set_up({}), print)
    with pytest.raises(
        BrokerRefused, match=r"PRECONDITION_FAILED.*delete it \(rabbitmqctl delete_queue NAME\)"
    ):
        polled(second, lambda: second.ready)
    first.channel.queue_delete(name)
    first.close()


@pytest.mark.brokers
def test_a_dropped_connection_comes_back_as_a_new_one(rabbitmq_url, endpoint_of):
    """After drop() the reason is said once, a new connection is made, and the loss is counted."""
    lines = []
    link = Link("test", endpoint_of(rabbitmq_url), plain_set_up, lines.append)
    polled(link, lambda: link.ready)
    channel = link.channel
    link.drop("the test wants it")
    polled(link, lambda: link.ready and link.channel is not channel)
    link.close()

    assert 1 == sum("the test wants it" in line for line in lines)
    assert 3 == len(lines)
    assert 2 == link.losses  # the drop, and the close
    assert 2 == link.attempts


def header_with(kind, value):
    """A property list whose header table holds one value of a type, and our properties behind it."""
    table = b"\x01x" + kind + value
    flags = (1 << 15) | (1 << 13) | (1 << 7)
    return struct.pack(">H", flags) + b"\x04text" + struct.pack(">I", len(table)) + table + b"\x03m-1"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (b"f", struct.pack(">f", float("nan"))),
        (b"d", struct.pack(">d", float("inf"))),
        (b"T", struct.pack(">Q", (1 << 64) - 1)),
        (b"?", b"unheard of"),
    ],
)
def test_headers_that_pika_cannot_decode_are_stepped_over(kind, value):
    """What would make pika close the connection, for ever, costs us nothing."""
    properties = header_with(kind, value)
    with pytest.raises((ValueError, OverflowError, OSError, pika.exceptions.AMQPError)):
        pika.BasicProperties().decode(properties)

    assert Properties(b"text", b"m-1", b"", b"") == read_properties(properties)


def test_pika_still_reads_ordinary_headers():
    """The control for the test above: a table of ordinary values is no trouble for pika."""
    table = {"text": "x", "number": 1, "when": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}

    assert table == pika.BasicProperties().decode(encoded(headers=table)).headers
