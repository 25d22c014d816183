"""Fixtures of the link's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.link.servers import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """A Valkey of this test's own."""
    with Server() as running:
        yield running
