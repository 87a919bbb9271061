"""
RabbitMQ links: one connection with one channel, kept alive, turned by its owner.

A process here has a duty cycle of its own, so pika does not get to run the loop: the owner calls
`link.poll(timeout_seconds)`, which runs pika's event loop for exactly one turn (shards/wire.py).

    DOWN --due--> CONNECTING --open--> SETTING_UP --declarations answered--> READY
      ^                |                 |  ^                                 | |
      |                |                 |  +---------- reopen() -------------+ |
      +--- back-off ---+-----------------+---- lost, too late, or drop(): LEAVING

An idle turn costs about 9 microseconds; a connection and its channel about 10 ms.

Invariants:

    A1  callbacks never connect, close or raise: they note what happened, and `poll` acts on it
    A2  a lost connection is followed by a new connection object, after a back-off with jitter
    A3  `losses` rises whenever a channel that was READY is gone: its delivery tags and confirms are void
    A4  nothing that is said or raised holds a user name or a password
    A5  no state but READY and DOWN lasts: what the broker does not answer in time is given up and started again. A
        quorum queue that was declared in the second before a kill of RabbitMQ 3.10 is there after the restart,
        has no leader, and answers nothing for ever (seen)
"""

import logging
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NoReturn
from urllib.parse import unquote, urlsplit

import pika
from pika import exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorStackTimeout

from ringpit.shards.scanner import OnScanned, make_scanner
from ringpit.shards.wire import (
    FRAME_OVERHEAD_BYTES,
    Connection,
    Loop,
    OnConfirm,
    close_channel,
    close_connection,
)

FRAME_BYTES_MAX: Final = 1 << 17  # RabbitMQ's own default
SIP_SECONDS_MAX: Final = (
    1.0  # a paused link reads a little this often: heartbeats, and the broker's send timeout
)
BACKOFF_SECONDS_MIN: Final = 0.1
BACKOFF_SECONDS_MAX: Final = 5.0
SET_UP_SECONDS: Final = 15.0  # declarations unanswered for so long: start again
LEAVE_SECONDS: Final = 2.0  # a close unanswered for so long: cut the stream
FOREVER: Final = float("inf")

# pika reports every failed attempt three times, with a traceback; the link says it once.
logging.getLogger("pika").setLevel(logging.CRITICAL)


class BrokerRefused(Exception):
    """The broker answered and said no: trying again would not help. Says what was refused and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """
    Where a broker is and how to get in. User name and password never appear in `repr`.

    Raises ValueError naming the setting, the value and the rule.
    """

    url: str = field(default="amqp://127.0.0.1:5672/", repr=False)  # amqp:// or amqps://
    username: str = field(default="", repr=False)  # empty: from the url, else guest
    password: str = field(default="", repr=False)
    ca_file: str = ""  # certificates to trust; empty: the system's
    certificate_file: str = ""  # our own certificate, for brokers that ask for one
    key_file: str = ""  # its private key
    heartbeat_seconds: int = 15
    connect_timeout_seconds: float = 5.0

    def __post_init__(self) -> None:
        """Check once, here."""
        parts = urlsplit(self.url)
        if parts.scheme not in {"amqp", "amqps"}:
            raise ValueError(
                f"rabbitmq.url must start with amqp:// or amqps://, was {parts.scheme or 'nothing'}://"
            )
        if not parts.hostname:
            raise ValueError("rabbitmq.url must name a host: amqp://host:5672/")
        try:
            port_fits = parts.port != 0
        except ValueError:
            port_fits = False
        if not port_fits:
            raise ValueError("rabbitmq.url must name a port from 1 to 65535, or none")
        if parts.query or parts.fragment:
            raise ValueError(
                "rabbitmq.url must end with the virtual host: other settings have keys of their own"
            )
        if self.heartbeat_seconds < 1:
            raise ValueError(f"rabbitmq.heartbeat_seconds must be at least 1, was {self.heartbeat_seconds}")
        if self.connect_timeout_seconds <= 0:
            raise ValueError(
                f"rabbitmq.connect_timeout_seconds must be above 0, was {self.connect_timeout_seconds}"
            )
        if bool(self.certificate_file) != bool(self.key_file):
            raise ValueError("rabbitmq.certificate_file and rabbitmq.key_file must be given together")
        if parts.scheme == "amqp" and (self.ca_file or self.certificate_file):
            raise ValueError("rabbitmq.ca_file and rabbitmq.certificate_file need an amqps:// url")

    def __repr__(self) -> str:
        """The address and nothing secret."""
        return f"Endpoint({urlsplit(self.url).scheme}://***@{self.address})"

    @property
    def address(self) -> str:
        """Host and port, for messages."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}"

    def parameters(self) -> pika.ConnectionParameters:
        """
        The same for pika.

        Raises ValueError if a TLS file cannot be read, naming the setting and the file.
        """
        parts = urlsplit(self.url)
        username = self.username or unquote(parts.username or "guest")
        password = self.password or unquote(parts.password or "guest")
        host, _, port = self.address.rpartition(":")
        return pika.ConnectionParameters(
            host=host,
            port=int(port),
            virtual_host=unquote(parts.path[1:]) or "/",
            credentials=pika.PlainCredentials(username, password, erase_on_connect=True),
            heartbeat=self.heartbeat_seconds,
            frame_max=FRAME_BYTES_MAX,
            socket_timeout=self.connect_timeout_seconds,
            stack_timeout=self.connect_timeout_seconds * 2,
            blocked_connection_timeout=None,  # a broker's alarm may last: the link is just not ready
            ssl_options=pika.SSLOptions(self._context(), host) if parts.scheme == "amqps" else None,
            client_properties={"connection_name": "ringpit"},
        )

    def _context(self) -> ssl.SSLContext:
        """Certificates checked, host name checked."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
        except OSError as error:
            raise ValueError(f"rabbitmq.ca_file cannot be read: {self.ca_file}: {error}") from error
        if self.certificate_file:
            try:
                context.load_cert_chain(self.certificate_file, self.key_file)
            except OSError as error:
                raise ValueError(
                    f"rabbitmq.certificate_file and key_file cannot be used: {self.certificate_file}, {self.key_file}: {error}"
                ) from error
        return context


class LinkState(Enum):
    """Life of a link; the picture is at the top."""

    DOWN = 0
    CONNECTING = 1
    SETTING_UP = 2
    READY = 3
    REOPENING = 4
    LEAVING = 5
    CLOSED = 6


SETTING_UP: Final = frozenset({LinkState.SETTING_UP, LinkState.REOPENING})

# What to do about a broker that answers and says no, by AMQP reply code.
REMEDIES: Final = {
    403: "check user name and password, and that the user may configure, write and read there",
    404: "declare it, or name another one",
    405: "another connection holds it exclusively: end that one, or name another",
    406: "it exists with other settings: delete it (rabbitmqctl delete_queue NAME) or name another one",
    530: "create the virtual host (rabbitmqctl add_vhost NAME) and give the user permissions, or name another one in the url",
    540: "this broker is too old: use RabbitMQ 3.10 or later",
}


class Link:
    """
    One connection and one channel to a broker, reconnected for as long as it is polled.

    `set_up(channel, done)` is called on every fresh channel: it sends its declarations and hands
    `done` to pika as the callback of the last one. `on_confirm` gets the confirms of a channel in confirm mode. `say` gets one line for each change of state.

    `blocked` is True while the broker has an alarm and takes nothing from publishers.
    Counters: `attempts` connections tried, `losses` READY channels lost (A3).
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        set_up: Callable[[Any, Callable[..., None]], None],
        say: Callable[[str], None],
        on_confirm: OnConfirm | None = None,
    ) -> None:
        """Nothing is connected before the first `poll`. Raises ValueError for TLS files that cannot be read."""
        endpoint.parameters()
        self.name = name
        self.endpoint = endpoint
        self.state = LinkState.DOWN
        self.channel: Any = None
        self.blocked = False
        self.attempts = 0
        self.losses = 0
        self._set_up = set_up
        self._on_confirm = on_confirm
        self._say = say
        self._loop = Loop()
        self._connection: Connection | None = None
        self._failures = 0
        self._due_at = 0.0  # when the state has lasted long enough; see `_act`
        self._refusal: str | None = None
        self._drop_because: str | None = None
        self._ready_at = 0.0
        self._told = False  # that it is not ready; one line for each change
        self._paused = False
        self._sip_at = 0.0
        self._sip_seconds = min(SIP_SECONDS_MAX, endpoint.heartbeat_seconds / 4)

    @property
    def ready(self) -> bool:
        """True if the channel can be used now."""
        return self.state is LinkState.READY

    @property
    def server_version(self) -> tuple[int, ...]:
        """The broker's version as numbers, (0,) if it said none. Valid from `set_up` on."""
        properties = self._connection.server_properties if self._connection is not None else None
        version = str((properties or {}).get("version", ""))
        return tuple(int(part) for part in version.split(".")[:3] if part.isdigit()) or (0,)

    def poll(self, timeout_seconds: float) -> None:
        """
        Run one turn: connect if it is due, write what is gathered, serve what happened.

        Raises BrokerRefused if the broker answered and said no.
        """
        now = time.monotonic()
        if now >= self._due_at:
            self._act()
        timeout_seconds = min(timeout_seconds, max(0.0, self._due_at - now))
        if self._connection is not None:
            self._connection.flush()
        if self._paused and self.state is LinkState.READY:
            self._turn_without_reading(timeout_seconds)
        else:
            self._loop.set_reading(True)
            self._loop.turn(timeout_seconds)
        if self._refusal is not None:
            self._refuse()
        if self._drop_because is not None:
            self._disconnect()

    def pause(self) -> None:
        """
        Stop reading the socket; heartbeats and writes go on.

        Every second (or a quarter of the heartbeat) one read of at most about 100 kB is made all the
        same: pika closes a connection on which it has read nothing for a heartbeat and five seconds, and the
        broker one on which it could write nothing for fifteen. The consumer's prefetch bounds what such sips can bring.
        """
        self._paused = True
        self._sip_at = time.monotonic() + self._sip_seconds

    def resume(self) -> None:
        """Read again."""
        self._paused = False

    def emit(self, frames: bytes) -> None:
        """Send whole frames of the current channel with the next turn."""
        assert self._connection is not None
        self._connection.emit(frames)

    def scan(self, channel: Any, consumer: str, on_scanned: OnScanned) -> None:
        """Have a consumer's deliveries scanned (scanner.py) for as long as this connection lasts; on a fresh channel, anew."""
        assert self._connection is not None
        self._connection.scanner = make_scanner(channel, consumer, on_scanned)

    @property
    def body_chunk_bytes(self) -> int:
        """Bytes of body that fit one frame, as agreed with the broker."""
        assert self._connection is not None
        return int(self._connection.params.frame_max) - FRAME_OVERHEAD_BYTES

    def reopen(self) -> None:
        """Close the channel, so that everything unacknowledged goes back to its queue, and open a new one."""
        if self.state is LinkState.READY:
            self.losses += 1  # A3
            self._enter(LinkState.REOPENING, SET_UP_SECONDS)
            self._loop.set_reading(True)
            close_channel(self.channel)

    def drop(self, reason: str) -> None:
        """Give the connection up at the end of this `poll`, say why, and make a new one after the back-off."""
        self._drop_because = reason

    def close(self, timeout_seconds: float = LEAVE_SECONDS) -> None:
        """Close in order if the broker answers within the time, else just leave. Safe to call twice."""
        if self.state is LinkState.CLOSED:
            return
        if self.state is LinkState.READY:
            self.losses += 1  # A3
        self._enter(LinkState.CLOSED)
        self._loop.set_reading(True)
        deadline = time.monotonic() + timeout_seconds
        try:
            close_connection(self._connection)
            while self._connection is not None and time.monotonic() < deadline:
                self._connection.flush()
                self._loop.turn(0.05)
            self._cut()
            self._loop.turn(0.0)
        except (
            AssertionError
        ):  # pika's own, at a handshake that is ended in the middle; the socket is closed by then
            pass
        self._connection = None
        self._loop.close()

    def _enter(self, state: LinkState, seconds: float = FOREVER) -> None:
        """Change the state; after so long, `_act` is called."""
        self.state = state
        self._due_at = time.monotonic() + seconds

    def _act(self) -> None:
        """The state has lasted as long as it may."""
        if self.state is LinkState.DOWN:
            self._connect()
        elif self.state in SETTING_UP:
            self.drop(
                f"no answer to the declarations in {SET_UP_SECONDS:.0f} s; if it goes on, see in the broker's log "
                "whether a quorum queue has no leader, and restart the broker or delete that queue"
            )
        elif self.state is LinkState.LEAVING:
            self._cut()

    def _connect(self) -> None:
        """Start a connection, on a new object (A2)."""
        self._enter(LinkState.CONNECTING)
        self.attempts += 1
        self.blocked = False
        self._loop.set_reading(True)
        self._connection = Connection(
            self.endpoint.parameters(),
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_gone,
            on_close_callback=self._on_gone,
            custom_ioloop=self._loop,
        )
        self._connection.on_confirm = self._on_confirm

    def _cut(self) -> None:
        """Leave a broker that does not answer to a close."""
        self._due_at = FOREVER
        if self._connection is not None:
            error = exceptions.StreamLostError("no answer to close")
            self._connection._terminate_stream(error)  # noqa: SLF001 - pika has no public way to hang up

    def _turn_without_reading(self, timeout_seconds: float) -> None:
        """One turn that leaves the socket unread, unless a sip is due."""
        now = time.monotonic()
        if now >= self._sip_at:
            self._sip_at = now + self._sip_seconds
            self._loop.set_reading(True)
            self._loop.turn(0.0)
        self._loop.set_reading(False)
        self._loop.turn(min(timeout_seconds, self._sip_at - now))

    def _on_open(self, connection: Connection) -> None:
        """The handshake is done: open the channel."""
        self._enter(LinkState.SETTING_UP, SET_UP_SECONDS)
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._open_channel()

    def _open_channel(self) -> None:
        """A fresh channel; the old one, if any, is forgotten."""
        assert self._connection is not None
        self.channel = self._connection.channel(on_open_callback=self._on_channel_open)
        self.channel.add_on_close_callback(self._on_channel_closed)

    def _on_channel_open(self, channel: Any) -> None:
        """Let the owner declare what it needs."""
        if channel is self.channel and self.state in SETTING_UP:
            channel.add_on_cancel_callback(lambda _: self.drop("the broker cancelled the consumer"))
            self._set_up(channel, lambda *_: self._on_set_up(channel))

    def _on_set_up(self, channel: Any) -> None:
        """The last declaration is answered."""
        if channel is self.channel and self.state in SETTING_UP:
            reopened = self.state is LinkState.REOPENING
            self._enter(LinkState.READY)
            self._told = False
            if not reopened:
                self._ready_at = time.monotonic()
                version = ".".join(map(str, self.server_version))
                self._say(f"{self.name}: connected to RabbitMQ {version} at {self.endpoint.address}")

    def _on_channel_closed(self, channel: Any, reason: BaseException) -> None:
        """Ours, because of `reopen`; or the broker's, because it refused something."""
        if channel is not self.channel or self.state in {LinkState.DOWN, LinkState.LEAVING, LinkState.CLOSED}:
            return
        if isinstance(reason, exceptions.ChannelClosedByClient):
            self._open_channel()
        elif isinstance(reason, exceptions.ChannelClosedByBroker):
            if self.state in SETTING_UP and reason.reply_code in REMEDIES and self.losses == 0:
                self._refusal = f"{reason.reply_text}; {REMEDIES[reason.reply_code]}"
            else:
                self.drop(f"it closed the channel: {reason.reply_code} {reason.reply_text}")

    def _on_gone(self, _connection: Connection, error: BaseException) -> None:
        """The connection could not be made, or is lost."""
        self._connection = None
        if self.state is LinkState.CLOSED:
            return
        now = time.monotonic()
        was_ready = self.state is LinkState.READY
        if was_ready:
            self.losses += 1  # A3
        if was_ready and now - self._ready_at > BACKOFF_SECONDS_MAX:
            self._failures = 0
        wait_seconds = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * 2 ** min(self._failures, 16))
        self._failures += 1
        self._enter(LinkState.DOWN, wait_seconds * random.uniform(0.5, 1.0))
        remedy = remedy_for(error)
        if remedy and self.losses == 0:
            self._refusal = f"{cause_of(error)}; {remedy}"
        elif not self._told:
            self._told = True
            self._say(self._loss(error, was_ready))

    def _loss(self, error: BaseException, was_ready: bool) -> str:
        """The line for a broker that is away."""
        if was_ready:
            return f"{self.name}: lost RabbitMQ at {self.endpoint.address} ({cause_of(error)}); reconnecting"
        return (
            f"{self.name}: no RabbitMQ at {self.endpoint.address} ({cause_of(error)}); trying again: "
            "start it (make brokers) or name another one in rabbitmq.url"
        )

    def _on_blocked(self, _connection: Connection, _frame: Any) -> None:
        """The broker has an alarm (memory, disk) and reads nothing from publishers."""
        self.blocked = True
        self._say(
            f"{self.name}: RabbitMQ at {self.endpoint.address} blocks publishers (memory or disk alarm); waiting"
        )

    def _on_unblocked(self, _connection: Connection, _frame: Any) -> None:
        """The alarm is over."""
        self.blocked = False
        self._say(f"{self.name}: RabbitMQ at {self.endpoint.address} takes messages again")

    def _disconnect(self) -> None:
        """Act on `drop`."""
        reason, self._drop_because = self._drop_because, None
        if self._connection is not None and self._connection.is_open:
            if self.state is LinkState.READY:
                self.losses += 1  # A3
            self._enter(LinkState.LEAVING, LEAVE_SECONDS)
            self._told = True
            self._say(f"{self.name}: connecting anew to RabbitMQ at {self.endpoint.address}: {reason}")
            close_connection(self._connection)

    def _refuse(self) -> NoReturn:
        """Raise what a callback noted (A1)."""
        refusal, self._refusal = self._refusal, None
        self.close()
        raise BrokerRefused(f"{self.name}: RabbitMQ at {self.endpoint.address} refused: {refusal}")


def remedy_for(error: BaseException) -> str:
    """What to do about it; empty for a failure that may pass by itself."""
    error = innermost(error)
    if isinstance(error, exceptions.ProbableAuthenticationError | exceptions.AuthenticationError):
        return REMEDIES[403]
    if isinstance(error, exceptions.ProbableAccessDeniedError):
        return REMEDIES[530]
    if isinstance(error, exceptions.ConnectionClosedByBroker):
        return REMEDIES.get(error.reply_code, "")
    if isinstance(error, ssl.SSLCertVerificationError):
        return "set rabbitmq.ca_file to the certificate that signed the broker's, and name the host as it does"
    return ""


def innermost(error: BaseException) -> BaseException:
    """pika wraps a failed attempt up to four times; this is what really happened."""
    while True:
        wrapped = getattr(error, "exceptions", None) or getattr(error, "exception", None)
        inner = wrapped[-1] if isinstance(wrapped, list | tuple) else wrapped
        if inner is None and error.args and isinstance(error.args[0], BaseException):
            inner = error.args[0]
        if inner is None:
            return error
        error = inner


def cause_of(error: BaseException) -> str:
    """What happened, in a few words and without credentials (A4)."""
    error = innermost(error)
    if isinstance(error, exceptions.ProbableAuthenticationError | exceptions.AuthenticationError):
        return "login refused"
    if isinstance(error, exceptions.ConnectionClosedByBroker):
        return f"{error.reply_code} {error.reply_text}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error.args[-1]}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, AMQPConnectorStackTimeout | exceptions.IncompatibleProtocolError):
        return "something listens there, but does not speak AMQP"
    return str(error) or type(error).__name__
