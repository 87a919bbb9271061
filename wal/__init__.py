"""
Commands at rest: batches, the reader rule, and the log in three forms.

    records ──BatchWriter──> batch ──Log.append──> memory | segment files | Kafka
    state   <──Reader, recover── batch <──Log.read──'

`log.Log` is the protocol; `memory`, `segments` and `kafka` implement it, and only `kafka` loads a client.
"""
