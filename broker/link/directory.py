"""Private directories, and the lock that makes a directory one broker's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from pathlib import Path

import attrs
import trio

from broker.link.errors import StartupError

LOCK_NAME = "broker.lock"
_LOCK_WAIT = 2.0
_SOCKET_NAME = "valkey.sock"
_LONGEST_SOCKET_PATH = 103
"""Bytes; sun_path holds 108 on Linux and 104 on macOS, with a zero byte at the end (unix(7))."""


def socket_path(directory: Path) -> Path:
    """Where the embedded server of this directory listens: the command line and the broker derive the same path.

    Raises StartupError when the path is too long for a unix socket.
    """
    path = directory.absolute() / _SOCKET_NAME
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise StartupError(f"{path} is too long for a unix socket: choose a shorter directory")
    return path


def dev_directory() -> Path:
    """Return this user's directory for the dev broker, made if it is missing: the same for every command.

    It is in $XDG_RUNTIME_DIR, or in /tmp. Raises StartupError if somebody else owns it or may look into it.
    """
    directory = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp") / f"signalbox-dev-{os.getuid()}"  # noqa: S108  0700
    make_directory(directory, private=True)
    return directory


def make_directory(directory: Path, *, private: bool) -> None:
    """Make the directory (mode 0700) if it is missing; raise StartupError if one that should be private is not."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise StartupError(f"{directory} cannot be made: {error.strerror}") from error
    if private and not (stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077):
        raise StartupError(f"{directory} must be a directory that you own with mode 0700: remove it and try again")


def temporary_directory() -> Path:
    """Make a private directory of its own for one run."""
    return Path(tempfile.mkdtemp(prefix="signalbox-"))


@attrs.frozen(eq=False)
class DirectoryLock:
    """An flock on a file in the directory.

    Its descriptor is to be inherited by the server that works in the directory: should the broker be killed, the lock
    is free only when the server is gone as well.
    """

    directory: Path
    fd: int

    @classmethod
    async def acquire(cls, directory: Path, *, private: bool) -> DirectoryLock:
        """Make the directory if it is missing (mode 0700), and lock it.

        Raises StartupError when that cannot be, when the directory should be `private` and is not, and when another
        broker has held it for two seconds now.
        """
        path = directory / LOCK_NAME
        with trio.move_on_after(_LOCK_WAIT):
            while True:
                # Each time round: the one before us may have removed it at its own end.
                make_directory(directory, private=private)
                lock = cls._try(path)
                if lock is not None:
                    return lock
                await trio.sleep(0.02)
        raise StartupError(f"{directory} is in use by another broker (process {_owner(path)})")

    @classmethod
    def _try(cls, path: Path) -> DirectoryLock | None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StartupError(f"{path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us may have removed the file that we opened, at its own end.
            if path.exists() and path.stat().st_ino == os.fstat(fd).st_ino:
                os.ftruncate(fd, 0)
                os.write(fd, f"{os.getpid()}\n".encode())
                return cls(path.parent, fd)
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError as error:
            os.close(fd)
            raise StartupError(f"{path} cannot be written: {error.strerror}") from error
        os.close(fd)
        return None

    @staticmethod
    def is_held(directory: Path) -> bool:
        """Tell whether a broker, or the server that it has left behind, works in the directory."""
        try:
            fd = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def release(self) -> None:
        """Let the next broker in."""
        os.close(self.fd)

    def remove_directory(self) -> None:
        """Remove the lock's file and the directory, unless it holds something else; the lock is still held."""
        (self.directory / LOCK_NAME).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.directory.rmdir()


def _owner(path: Path) -> str:
    try:
        return path.read_text().strip() or "unknown"
    except OSError:
        return "unknown"
