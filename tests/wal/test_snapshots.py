"""A snapshot is there whole or not at all: torn, flipped, half written or full disks are named, and an older one takes its place."""

import contextlib
import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from ringpit.engine.records import COMMAND, LAYOUT_VERSION, RULES_VERSION
from ringpit.wal import snapshots
from ringpit.wal.errors import SnapshotDamaged, SnapshotFailed, SnapshotVersionMismatch
from ringpit.wal.snapshots import (
    HEADER,
    IDENTITY_BYTES_MAX,
    MAGIC,
    SECTION,
    SNAPSHOT_VERSION,
    SnapshotFacts,
    SnapshotStore,
)

SHARD = 3
FACTS = SnapshotFacts(
    shard=SHARD, generation=2, seq=12_345, epoch=4, checksum=-77, confirmed_seq=12_340, engine_ns=1 << 60, nonce=9, log_seq=12_300, skip_count=1,
    log_position=99, log_identity="cluster/Ärger", digest="0123456789abcdef" * 2,
)  # fmt: skip
ARRAYS = {
    "orders": np.arange(16, dtype=np.int64).view(COMMAND),
    "positions": np.arange(3),
    "none": np.zeros(0, COMMAND),
}


@pytest.fixture
def store(tmp_path):
    """A store that has no folder yet."""
    return SnapshotStore(tmp_path / "snapshots", SHARD)


def publish(store, seq, arrays=ARRAYS):
    """Write and publish a snapshot; its path."""
    return store.write(replace(FACTS, seq=seq), arrays).publish()


def names(store):
    """Names of all files of the shard, sorted."""
    return sorted(path.name for path in store.folder.iterdir())


def silent(sentence):
    """Nothing is damaged here."""
    pytest.fail(sentence)


def flip(path, bit):
    """Turn one bit of a file."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


# -- what is written is what is read


def test_facts_and_arrays_come_back(store):
    """With their types, from a file named after its seq; and they may be changed."""
    path = publish(store, 12_345)
    assert "seq-00000000000000012345.snapshot" == path.name
    snapshot = store.newest(silent)
    assert (FACTS, path) == (snapshot.facts, snapshot.path)
    assert list(ARRAYS) == list(snapshot.arrays)
    for name, array in ARRAYS.items():
        assert array.dtype == snapshot.arrays[name].dtype
        assert array.tobytes() == snapshot.arrays[name].tobytes()
    snapshot.arrays["orders"]["price"] = 5


@given(
    st.dictionaries(
        st.text("abcdef_", min_size=1, max_size=32),
        st_numpy.arrays(st.sampled_from(["<i8", "<i4", "<i1", COMMAND]), st.integers(0, 5), fill=st.nothing()),
        max_size=5,
    ),
    st.text(max_size=30),
)
def test_any_arrays_come_back(tmp_path_factory, arrays, identity):
    """However many, however long, in their order; sections begin on lines."""
    store = SnapshotStore(tmp_path_factory.mktemp("any"), SHARD)
    facts = replace(FACTS, log_identity=identity.replace("\0", ""))
    store.write(facts, arrays).publish()
    snapshot = store.newest(silent)
    assert facts == snapshot.facts
    assert list(arrays) == list(snapshot.arrays)
    for name, array in arrays.items():
        assert (array.dtype, array.tobytes()) == (snapshot.arrays[name].dtype, snapshot.arrays[name].tobytes())
        assert 0 == snapshot.arrays[name].ctypes.data % 8


def test_the_declared_places_are_the_real_ones():
    """S1, and no padding: every byte of header and directory is a field's."""
    for dtype in (HEADER, SECTION):
        end = 0
        for kind, offset in dtype.fields.values():
            assert (end, 0) == (offset, offset % 4)
            end += kind.itemsize
        assert end == dtype.itemsize
    offsets = {name: HEADER.fields[name][1] for name in ("magic", "snapshot_version", "file_bytes", "crc32c")}
    assert {"magic": 0, "snapshot_version": 4, "file_bytes": 8, "crc32c": snapshots._CRC_AT} == offsets
    assert HEADER.fields["layout_version"][1] == snapshots._BEHIND_CRC


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("flat", np.zeros((2, 2))), ("objects", np.array([None])), ("nested", np.zeros(1, [("a", "<i8", 2)])),
        ("n" * 33, np.zeros(1)), ("ä", np.zeros(1)),
    ],
)  # fmt: skip
def test_what_is_no_section_is_refused(store, name, array):
    """Before anything is written."""
    with pytest.raises(ValueError, match=f"section '{name}' must be a one-dimensional array"):
        store.write(FACTS, {name: array})
    assert not store.folder.exists()


def test_facts_that_do_not_fit_are_refused(store):
    """Another shard's, an identity without room, no digest."""
    with pytest.raises(ValueError, match=r"snapshots of shard 3 lie in .*, facts.shard was 4"):
        store.write(replace(FACTS, shard=4), ARRAYS)
    with pytest.raises(ValueError, match=f"log_identity must be at most {IDENTITY_BYTES_MAX} bytes, was 130"):
        replace(FACTS, log_identity="ü" * 65)
    with pytest.raises(ValueError, match="digest must be 32 hexadecimal digits"):
        replace(FACTS, digest="ab")


# -- damage


def test_a_snapshot_torn_at_any_byte_is_damaged(store):
    """Also one with a byte too many."""
    path = publish(store, 7)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        (found,) = store.listing()
        assert found.facts is None
        assert f"{path}: " in found.damage
        assert "bytes long, is" in found.damage
    path.write_bytes(whole + b"\0")
    (found,) = store.listing()
    assert f"{path}: must be {len(whole)} bytes long, is {len(whole) + 1}" == found.damage
    path.write_bytes(whole)
    assert store.newest(silent).facts.seq == 7


def test_any_bit_that_flips_is_found(store):
    """In each byte of the file one, in turn: header, directory, types, padding, sections."""
    path = publish(store, 7)
    for byte in range(path.stat().st_size):
        bit = 8 * byte + byte % 8
        flip(path, bit)
        said = []
        assert store.newest(said.append) is None
        (sentence,) = said
        assert sentence.startswith(f"{path}: ")
        assert any(word in sentence for word in ("crc32c must be", "begins with b'RPSN'", "bytes long, is"))
        flip(path, bit)
    assert store.newest(silent).facts.seq == 7


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("snapshot_version", SNAPSHOT_VERSION),
        ("layout_version", LAYOUT_VERSION),
        ("rules_version", RULES_VERSION),
    ],
)
def test_another_version_is_told_from_damage(store, monkeypatch, name, ours):
    """With what to do about it."""
    with monkeypatch.context() as patched:
        patched.setattr(snapshots, name.upper(), ours + 1)
        path = publish(store, 7)
    said = []
    assert store.newest(said.append) is None
    (sentence,) = said
    assert f"{path}: {name} must be {ours}, was {ours + 1}; run the ringpit that wrote it, or let" in sentence
    with pytest.raises(SnapshotVersionMismatch):
        store.load(path)


def test_the_newest_that_is_whole_is_used(store):
    """The damaged one is named, skipped and left where it is."""
    first, second = publish(store, 7), publish(store, 20)
    (store.folder / "seq-later.snapshot").write_text("somebody's")
    flip(second, 900 * 8)
    said = []
    assert first == store.newest(said.append).path
    (sentence,) = said
    assert sentence.startswith(f"{second}: crc32c must be")
    assert sentence.endswith("it is left out, the next older one is tried")
    assert second.exists()
    listed = store.listing()
    assert [(20, False), (7, True)] == [(found.seq, found.facts is not None) for found in listed]
    assert [second.stat().st_size, first.stat().st_size] == [found.bytes for found in listed]


def test_a_file_under_another_name_is_not_taken_for_what_it_is_not(store, tmp_path):
    """Neither another seq's nor another shard's."""
    path = publish(store, 7)
    path.rename(path.with_name("seq-00000000000000000009.snapshot"))
    other = SnapshotStore(tmp_path / "snapshots", 4)
    other.folder.mkdir()
    (other.folder / path.name).write_bytes(path.with_name("seq-00000000000000000009.snapshot").read_bytes())
    for one in (store, other):
        said = []
        assert one.newest(said.append) is None
        assert "holds shard 3 at seq 7, not what its name says: give the file its name back" in said[0]


def test_a_file_that_cannot_be_read_is_damaged(store):
    """A folder in its place, say."""
    store.folder.mkdir(parents=True)
    (store.folder / "seq-00000000000000000009.snapshot").mkdir()
    with pytest.raises(SnapshotDamaged, match=r"cannot be read .*; check the disk"):
        store.load(store.folder / "seq-00000000000000000009.snapshot")


# -- written whole or not at all


def test_what_is_not_published_does_not_count(store):
    """It may be discarded; a writer that was killed leaves a file that prune removes, but not that of a living one."""
    publish(store, 7)
    written = store.write(replace(FACTS, seq=9), ARRAYS)
    assert 7 == store.newest(silent).facts.seq
    assert [] == store.prune(1)
    written.discard()
    assert ["seq-00000000000000000007.snapshot"] == names(store)

    store.write(replace(FACTS, seq=9), ARRAYS)
    (store.folder / "seq-00000000000000000008.unfinished").write_bytes(b"RPSN")
    after_the_kill = SnapshotStore(store.folder.parent, SHARD)
    assert 7 == after_the_kill.newest(silent).facts.seq
    assert [7] == [found.seq for found in after_the_kill.listing()]
    assert 2 == len(after_the_kill.prune(1))
    assert ["seq-00000000000000000007.snapshot"] == names(store)


STEPS = ("open", "write", "fsync", "posix_fadvise")


def fail_at(monkeypatch, step, count, error):
    """Let the `count`th call of a function of the system fail; a write first does half of its work."""
    real, calls = getattr(os, step), []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == count:
            if step == "write":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise error
        return real(*arguments)

    monkeypatch.setattr(os, step, failing)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_writer_that_dies_at_any_step_leaves_nothing_that_counts(store, monkeypatch, step, count):
    """What it left is ignored, and gone after the next prune."""
    publish(store, 7)
    with monkeypatch.context() as patched:
        fail_at(patched, step, count, KeyboardInterrupt())
        with contextlib.suppress(KeyboardInterrupt):
            store.write(replace(FACTS, seq=9), ARRAYS).publish()
    later = SnapshotStore(store.folder.parent, SHARD)
    renamed = (store.folder / "seq-00000000000000000009.snapshot").exists()
    assert (9 if renamed else 7) == later.newest(silent).facts.seq
    later.prune(2)
    assert all(name.endswith(".snapshot") for name in names(store))
    assert publish(later, 11) == later.newest(silent).path


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("step", STEPS)
def test_a_full_or_broken_disk_is_told_and_leaves_nothing(store, monkeypatch, step, number):
    """The sentence says that the log is whole; the next attempt finds the old state of things."""
    publish(store, 7)
    with monkeypatch.context() as patched:
        fail_at(patched, step, 1, OSError(number, os.strerror(number)))
        wanted = "writing a snapshot failed in" if number == errno.EIO else "no room for a snapshot in"
        with pytest.raises(SnapshotFailed, match=rf"{wanted} .*: the log is whole without it"):
            store.write(replace(FACTS, seq=9), ARRAYS)
    assert ["seq-00000000000000000007.snapshot"] == names(store)
    assert (
        9 == SnapshotStore(store.folder.parent, SHARD).newest(silent).facts.seq if publish(store, 9) else None
    )


def test_a_name_that_cannot_be_made_durable_is_told(store, monkeypatch):
    """Publishing fails, and says so."""
    written = store.write(FACTS, ARRAYS)
    fail_at(monkeypatch, "fsync", 1, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(SnapshotFailed, match="writing a snapshot failed"):
        written.publish()


def test_what_does_not_read_back_is_not_kept(store, monkeypatch):
    """Bytes that the disk changed, and bytes of another snapshot."""
    real = snapshots._read

    def changed(path: Path) -> bytearray:
        content = real(path)
        content[-1] ^= 1
        return content

    with monkeypatch.context() as patched:
        patched.setattr(snapshots, "_read", changed)
        with pytest.raises(
            SnapshotFailed, match=r"does not read back .*crc32c must be.*check the disk and the memory"
        ):
            store.write(FACTS, ARRAYS)
    assert [] == names(store)
    other = publish(store, 7).read_bytes()
    monkeypatch.setattr(snapshots, "_read", lambda _: bytearray(other))
    with pytest.raises(SnapshotFailed, match="holds another snapshot than the one that was written"):
        store.write(FACTS, ARRAYS)


# -- pruning


def test_pruning_keeps_the_newest_that_are_whole(store):
    """Damaged ones go with the others, but never while not one is whole."""
    paths = [publish(store, seq) for seq in (1, 2, 3, 4, 5)]
    flip(paths[4], 8_000)
    flip(paths[2], 8_000)
    assert [paths[4], paths[2], paths[0]] == store.prune(2)
    assert [4, 2] == [found.seq for found in store.listing()]
    for path in (paths[1], paths[3]):
        flip(path, 8_000)
    assert [] == store.prune(1)
    assert 2 == len(store.listing())
    with pytest.raises(ValueError, match="prune must keep at least 1 snapshot, was asked to keep 0"):
        store.prune(0)


def test_what_cannot_be_removed_is_told(store, monkeypatch):
    """With the folder, and what to do."""
    for seq in (1, 2):
        publish(store, seq)
    fail_at(monkeypatch, "fsync", 1, OSError(errno.EACCES, "Permission denied"))
    with pytest.raises(SnapshotFailed, match=r"old snapshots cannot be removed from .*Permission denied"):
        store.prune(1)


def test_a_shard_without_snapshots_has_none(store):
    """No folder is needed to say so."""
    assert (None, [], []) == (store.newest(silent), store.listing(), store.prune(1))
    assert MAGIC == int.from_bytes(b"RPSN", "little")
