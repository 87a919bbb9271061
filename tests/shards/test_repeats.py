"""What comes again is dropped by identity, whatever the publisher, the broker or the subscriber went through."""

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpit.engine.records import REPORT
from ringpit.shards.repeats import Repeats

KEYS = ("report.1", "report.2", "trade.7")


@st.composite
def deliveries(draw):
    """Messages of several keys and shards; at some points everything from an earlier point on comes again, cut otherwise."""
    streams = {
        (key, shard): sorted(draw(st.sets(st.tuples(st.integers(1, 40), st.integers(0, 3)), max_size=25)))
        for key in KEYS
        for shard in (0, 1)
    }
    at = dict.fromkeys(streams, 0)
    messages = []
    for _ in range(draw(st.integers(1, 40))):
        place = draw(st.sampled_from(list(streams)))
        if draw(st.integers(0, 4)) == 0:
            at[place] = draw(st.integers(0, at[place]))
        count = draw(st.integers(1, 6))
        message = streams[place][at[place] : at[place] + count]
        at[place] += len(message)
        if message:
            messages.append((*place, message))
    return messages


def seen_once(messages):
    """The naive twin: everything is remembered."""
    seen, kept = set(), []
    for key, shard, identities in messages:
        for identity in identities:
            if (key, shard, identity) not in seen:
                seen.add((key, shard, identity))
                kept.append((key, shard, identity))
    return kept


@given(deliveries(), st.integers(0, 40))
def test_each_report_is_given_once(messages, dies_at):
    """As lines and as records alike; also over the death of the subscriber that keeps its state."""
    lines, records = Repeats(), Repeats()
    from_lines, from_records = [], []
    for number, (key, shard, identities) in enumerate(messages):
        if number == dies_at:
            lines, records = Repeats(dict(lines.state)), Repeats(dict(records.state))
        body = b"".join(
            json.dumps(
                {"Seq": seq, "Index": index, "Shard": shard, "Generation": 3, "Kind": "Accepted"}
            ).encode()
            + b"\n"
            for seq, index in identities
        )
        fresh = map(json.loads, lines.fresh_lines(key, body))
        from_lines += [(key, shard, (line["Seq"], line["Index"])) for line in fresh]
        packed = np.zeros(len(identities), REPORT)
        packed["seq"], packed["index"] = np.array(identities).T
        message_id = f"3-{shard}-{identities[0][0]}-{identities[0][1]}"
        taken = records.fresh_records(key, message_id, packed)
        from_records += [(key, shard, (int(record["seq"]), int(record["index"]))) for record in taken]
    wanted = seen_once(messages)
    assert wanted == from_lines == from_records
    total = sum(len(identities) for _, _, identities in messages)
    if dies_at >= len(messages):
        assert total - len(wanted) == lines.dropped == records.dropped


def test_what_has_no_identity_is_refused():
    """A line of another kind, a message id of another form."""
    with pytest.raises(msgspec.ValidationError):
        Repeats().fresh_lines("report.1", b'{"Kind": "Accepted"}\n')
    for wrong in ("", "3-0-1", "3-0-1-x", "3-0--1-2"):
        with pytest.raises(ValueError, match="generation-shard-seq-index"):
            Repeats().fresh_records("report.1", wrong, np.zeros(1, REPORT))
