"""What the tests of the processes share."""

from urllib.parse import urlsplit, urlunsplit

import pytest

from ringpit.shards.amqp import Endpoint


@pytest.fixture
def endpoint_of():
    """An Endpoint for a broker's address; the query that pika understands is left out."""

    def make(url, **settings):
        scheme, host, path, _, _ = urlsplit(url)
        return Endpoint(url=urlunsplit((scheme, host, path, "", "")), **settings)

    return make
