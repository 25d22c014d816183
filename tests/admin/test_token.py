"""Who may use the operator API: the file of tokens."""

import os
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from broker.admin.token import TokenFile
from broker.observe import Repeated

GOOD, OTHER = "0123456789abcdef", "fedcba9876543210"


def token_file(path: Path | None) -> TokenFile:
    """A token file that complains to the test."""
    return TokenFile(path, Repeated(structlog.get_logger()))


def write(path: Path, text: str) -> Path:
    """Replace a file by another, as editors and configuration management do."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.chmod(0o600)
    return fresh.replace(path)


def test_no_file_admits_nobody() -> None:
    """Without a file there is no operator API."""
    tokens = token_file(None)
    assert not tokens.is_open
    assert tokens.holder("") is None


def test_names_and_tokens(tmp_path: Path) -> None:
    """A line is a token or a name and a token; comments and empty lines count for nothing."""
    path = write(tmp_path / "token", f"# operators\n\n{GOOD}  # the console\nbob {OTHER}\n")
    tokens = token_file(path)
    assert tokens.is_open
    assert tokens.holder(GOOD) == "operator"
    assert tokens.holder(OTHER) == "bob"
    for wrong in ("", "bob", GOOD[:-1], GOOD + "0", f"bob {OTHER}", "\udcff"):
        assert tokens.holder(wrong) is None


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "short\n", f"{GOOD[:-1]}\n", f"two words {GOOD}\n", f"a/b {GOOD}\n", f"{GOOD}\nbob short\n"],
)
def test_a_malformed_file_admits_nobody(tmp_path: Path, text: str) -> None:
    """One wrong line closes the operator API, and the log says which, but never the token."""
    with capture_logs() as logs:
        tokens = token_file(write(tmp_path / "token", text))
        assert not tokens.is_open
        assert tokens.holder(GOOD) is None
    assert [line["event"] for line in logs] == ["admin.token_file cannot be used: nobody is admitted"]
    assert GOOD not in str(logs)


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A token that is replaced stops and starts to work without a restart, and so does a file that is gone."""
    path = write(tmp_path / "token", GOOD)
    tokens = token_file(path)
    assert tokens.holder(GOOD) == "operator"
    write(path, OTHER)
    assert tokens.holder(GOOD) is None
    assert tokens.holder(OTHER) == "operator"
    path.unlink()
    assert not tokens.is_open
    write(path, GOOD)
    assert tokens.holder(GOOD) == "operator"
    tokens.path = None
    assert tokens.holder(GOOD) is None


def test_a_file_that_comes_back_as_it_was(tmp_path: Path) -> None:
    """What was read before it was gone, or before another was named, is no reason not to read it again."""
    path = write(tmp_path / "token", GOOD)
    tokens = token_file(path)
    assert tokens.holder(GOOD) == "operator"
    aside = path.rename(tmp_path / "aside")
    assert tokens.holder(GOOD) is None
    aside.rename(path)
    assert tokens.holder(GOOD) == "operator"
    tokens.path = None
    tokens.path = path
    assert tokens.holder(GOOD) == "operator"


@pytest.mark.parametrize("replaced", [True, False])
def test_a_change_that_hardly_shows(tmp_path: Path, replaced: bool) -> None:
    """Another file of the same age and size is another file, and so is the same one written anew."""
    path = write(tmp_path / "token", GOOD)
    tokens = token_file(path)
    assert tokens.is_open
    before = path.stat()
    if replaced:
        write(path, OTHER)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        path.write_text(OTHER)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert (tokens.holder(GOOD), tokens.holder(OTHER)) == (None, "operator")


def test_not_utf8(tmp_path: Path) -> None:
    """Bytes that are no text admit nobody."""
    path = tmp_path / "token"
    path.write_bytes(b"\xff" * 32)
    assert not token_file(path).is_open


def test_a_file_for_everybody_is_complained_about(tmp_path: Path) -> None:
    """A token that the whole machine can read still works, but not in silence."""
    path = write(tmp_path / "token", GOOD)
    os.chmod(path, 0o644)  # noqa: PTH101
    with capture_logs() as logs:
        assert token_file(path).is_open
    assert [line["log_level"] for line in logs] == ["warning"]
