"""A whole broker in this process, on a real Valkey, with its admin listener open."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.admin.site import TOKEN, Site, running_site
from tests.conftest import Valkey


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A token file with one operator, alice."""
    path = tmp_path / "token"
    path.write_text(f"# who may do what\nalice {TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
async def site(valkey: Valkey, token_file: Path) -> AsyncIterator[Site]:
    """A broker whose operator API is open to alice."""
    async with running_site(valkey, token_file) as running:
        yield running
