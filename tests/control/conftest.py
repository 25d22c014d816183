"""Fixtures of the control plane's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import Valkey
from tests.control.broker import Broker, running_broker


@pytest.fixture
async def broker(valkey: Valkey) -> AsyncIterator[Broker]:
    """A control plane with quick acks."""
    async with running_broker(valkey, ack_timeout=0.1) as running:
        yield running
