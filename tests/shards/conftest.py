"""What the tests of the processes share."""

from urllib.parse import urlsplit, urlunsplit

import pytest

from ringpit.shards.amqp import Endpoint


@pytest.fixture
def endpoint_of():
    """An Endpoint for a broker's address; the query that pika understands is left out."""

    def make(url, **settings):
        scheme, host, path, _, _ = urlsplit(url)
        # A slow broker is tried once, not again and again.
        wanted = {"connect_timeout_seconds": 60.0} | settings
        return Endpoint(url=urlunsplit((scheme, host, path, "", "")), **wanted)

    return make
