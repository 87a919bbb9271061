"""
Batch: what one append to the log carries, a 192-byte header and whole frames.

    | header 192 bytes | MARKER C C C | MARKER C | MARKER C C |        records of 64 bytes

The bytes are the same in memory, in a segment file and in a Kafka record. Making one copies the records
once, out of the ring; reading one copies nothing. Google's CRC32C uses the processor's instruction and
passes 8 GB/s here, so that checking every batch costs 8 ns a record.

Invariants:

    B1  a batch is HEADER_BYTES + count * RECORD_BYTES long
    B2  crc32c is over all other bytes: no bit of a batch can flip unseen
    B3  first_seq is the seq of the first record; claims, marks and skips have no records, and first_seq is
        the seq that comes next
    B4  checksum_before and checksum_after are the running checksum (frames.py) around the records
    B5  magic and the two versions keep their places in every layout: they are looked at first
    B6  skip_count is how many SKIP batches the log has up to and including this batch: a reader that begins
        anywhere knows from the last header whether there are skips to look for before it applies anything
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import google_crc32c
import numpy as np

from ringpit.engine.records import LAYOUT_VERSION, MARKER, RECORD_BYTES, RULES_VERSION, dtype_of
from ringpit.wal.errors import BatchDamaged, LogVersionMismatch
from ringpit.wal.frames import ROUTERS_MAX


class BatchKind(IntEnum):
    """What a batch is for."""

    CLAIM = 1  # a new owner's epoch; no records
    COMMANDS = 2  # whole frames
    MARK = 3  # no records: confirmed_seq and positions, as of now
    SKIP = 4  # no records: an operator skips the command at skip_seq


HEADER_FIELDS: Final = (
    ("magic", "<i4", "RPWL"),
    ("layout_version", "<i2", "of the records and of this header"),
    ("rules_version", "<i2", "of the matching rules under which the records were applied"),
    ("kind", "<i1", "BatchKind"),
    ("reserved_byte", "<i1", "0"),
    ("shard", "<i2", "whose log this is"),
    ("count", "<i4", "records that follow: markers and commands"),
    ("generation", "<i8", "topology generation, rises when shards are recut"),
    ("epoch", "<i8", "which owner wrote it, dense from 1"),
    ("prior_epoch", "<i8", "CLAIM: newest epoch that the owner had seen; else 0"),
    ("nonce", "<i8", "random, chosen once by each owner: tells two owners of one epoch apart"),
    ("first_seq", "<i8", "seq of the first record; without records: the next seq"),
    ("checksum_before", "<i8", "running checksum over all records below first_seq"),
    ("checksum_after", "<i8", "running checksum including these records"),
    ("confirmed_seq", "<i8", "reports up to this seq were confirmed by the publisher's broker"),
    ("engine_ns", "<i8", "time of the last marker, ns since the epoch; without records: 0"),
    *(
        (f"position_{router}", "<i8", f"input ring position of router {router}, 0: none yet")
        for router in range(ROUTERS_MAX)
    ),
    ("skip_count", "<i8", "SKIP batches in the log, up to and including this one"),
    ("skip_seq", "<i8", "SKIP: seq of the command that is skipped; else 0"),
    ("clean", "<i8", "MARK: 1 if everything taken was served, made durable and confirmed; else 0"),
    ("reserved", "<i8", "0"),
    ("crc32c", "<i8", "CRC32C of the header up to here, then of the records"),
)
HEADER: Final = dtype_of(HEADER_FIELDS)
HEADER_BYTES: Final = 192
MAGIC: Final = int.from_bytes(b"RPWL", "little")
_POSITIONS: Final = slice(88, 88 + 8 * ROUTERS_MAX)  # bytes of the header; a test compares with the table
_CRC_AT: Final = HEADER_BYTES - 8  # B2: last
_ZERO_HEADER: Final = bytes(HEADER_BYTES)
_FACTS: Final = struct.Struct(
    f"<ihh4xi{_CRC_AT - 16}xq"
)  # magic and versions, count, CRC; a test compares with the table


def encode(facts: dict[str, int], positions: np.ndarray, *spans: np.ndarray) -> bytes:
    """
    Make a batch of header facts, ring positions (int64, ROUTERS_MAX) and spans of 64-byte records.

    `facts` names fields of HEADER_FIELDS; magic, versions, count and CRC are filled in here. The spans are
    contiguous each and follow one another. Cost: one copy and one CRC of the records.
    """
    header = np.frombuffer(bytearray(_ZERO_HEADER), HEADER)
    row = header[0]
    row["magic"], row["layout_version"], row["rules_version"] = MAGIC, LAYOUT_VERSION, RULES_VERSION
    for name, value in facts.items():
        row[name] = value
    row["count"] = sum(map(len, spans))
    raw = header.view(np.uint8)
    raw[_POSITIONS] = positions.view(np.uint8)
    row["crc32c"] = _crc(raw, *spans)
    return b"".join((raw.data, *(span.data for span in spans)))


def decode(batch: bytes, where: str = "a batch") -> tuple[np.void, np.ndarray]:
    """
    Check a batch and return its header and its records (dtype MARKER; view as COMMAND where kind says so).

    Both are views of `batch`, and read-only like it. `where` names the place for messages.

    Raises BatchDamaged or LogVersionMismatch. Cost: one CRC, about 2 microseconds beside it.
    """
    if len(batch) < HEADER_BYTES:
        raise BatchDamaged(f"{where}: a batch is at least {HEADER_BYTES} bytes, was {len(batch)}")
    header = np.frombuffer(batch, HEADER, 1)[0]
    raw = np.frombuffer(batch, np.uint8)
    if header["magic"] != MAGIC:
        raise BatchDamaged(f"{where}: a batch begins with b'RPWL', was {batch[:4]!r}")
    for name, ours in (("layout_version", LAYOUT_VERSION), ("rules_version", RULES_VERSION)):
        if header[name] != ours:
            raise LogVersionMismatch(
                f"{where}: {name} must be {ours}, was {header[name]}; run the ringpit that wrote this log, or "
                f"begin with an empty log in another data folder or topic"
            )
    expected_bytes = HEADER_BYTES + int(header["count"]) * RECORD_BYTES
    if len(batch) != expected_bytes:
        raise BatchDamaged(
            f"{where}: a batch of {header['count']} records is {expected_bytes} bytes, was {len(batch)}"
        )
    crc = _crc(raw[:HEADER_BYTES], raw[HEADER_BYTES:])
    if header["crc32c"] != crc:
        raise BatchDamaged(f"{where}: crc32c must be {int(header['crc32c']):#x}, the bytes give {crc:#x}")
    return header, np.frombuffer(batch, MARKER, offset=HEADER_BYTES)


def is_sound(batch: bytes) -> bool:
    """True if `decode` would take a batch; else ask it why. Cost: one CRC, about 1 microsecond beside it."""
    if len(batch) < HEADER_BYTES:
        return False
    magic, layout_version, rules_version, count, crc = _FACTS.unpack_from(batch)
    if (magic, layout_version, rules_version) != (MAGIC, LAYOUT_VERSION, RULES_VERSION):
        return False
    if len(batch) != HEADER_BYTES + count * RECORD_BYTES:
        return False
    raw = np.frombuffer(batch, np.uint8)
    return bool(_crc(raw, raw[HEADER_BYTES:]) == crc)


def decode_run(batches: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """
    The headers and the records of many batches, back to back: of those at the front that are sound, perhaps none.

    Both are writable copies. Cost: one copy, one CRC, and about 2 microseconds a batch.
    """
    sound = len(batches)
    for at, batch in enumerate(batches):
        if not is_sound(batch):
            sound = at
            break
    views = [memoryview(batch) for batch in batches[:sound]]
    headers = bytearray().join([view[:HEADER_BYTES] for view in views])
    records = bytearray().join([view[HEADER_BYTES:] for view in views])
    return np.frombuffer(headers, HEADER), np.frombuffer(records, MARKER)


def positions_of(header: np.void) -> np.ndarray:
    """The eight input ring positions of a header, as a fresh int64 array."""
    return np.array([header[f"position_{router}"] for router in range(ROUTERS_MAX)], np.int64)


def furthest_positions(headers: np.ndarray) -> np.ndarray:
    """The highest of each of the eight input ring positions in headers, as a fresh int64 array."""
    rows = headers.view(np.uint8).reshape(-1, HEADER_BYTES)[:, _POSITIONS]
    furthest: np.ndarray = np.ascontiguousarray(rows).view(np.int64).max(axis=0)
    return furthest


def claimed_epoch(batch: bytes) -> int:
    """The epoch that a batch claims, or 0 if it is no claim. Reads two fields, checks nothing."""
    header = np.frombuffer(batch, HEADER, 1)[0]
    return int(header["epoch"]) if header["kind"] == BatchKind.CLAIM else 0


def _crc(header: np.ndarray, *spans: np.ndarray) -> int:
    """CRC32C of the header without its last field, then of the spans."""
    crc: int = google_crc32c.extend(0, header[:_CRC_AT])
    for span in spans:
        crc = google_crc32c.extend(crc, span)
    return crc
