"""The unix socket: made where nobody answers, never open to others, removed at the end (unix(7))."""

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from rds_csi.errors import ConfigurationError

DIRECTORY_MODE = 0o750
SOCKET_MODE = 0o600
# Connections that wait to be accepted. A full queue refuses with EAGAIN, which clients of unix sockets take badly
# (asyncio's believe to be connected); the kernel lowers it to net.core.somaxconn.
BACKLOG = 1024
# sun_path, less the closing NUL (unix(7)).
MAX_PATH_BYTES = 107

# How long another server in the same directory may take to make its socket, and how often that is looked at.
_LOCK_SECONDS = 5.0
_LOCK_INTERVAL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket, its path and the identity of the file that was made for it."""

    socket: socket.socket
    path: str
    device: int
    inode: int

    def is_there(self) -> bool:
        """Whether the file is still the one that was made; another server may have put its own there meanwhile."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self.device, self.inode)

    def remove(self) -> None:
        """Remove the file, unless it is another server's."""
        with contextlib.suppress(OSError):
            if self.is_there():
                os.unlink(self.path)


def path_of(endpoint: str) -> str:
    """The path in ``unix:///path``, ``unix:/path`` or ``/path``; ConfigurationError for anything else."""
    path = endpoint.removeprefix("unix://") if endpoint.startswith("unix://") else endpoint.removeprefix("unix:")
    if not path.startswith("/") or len(os.fsencode(path)) > MAX_PATH_BYTES or "\0" in path:
        raise ConfigurationError(
            f"{endpoint!r} is no endpoint",
            remedy=f"Use unix:///absolute/path of at most {MAX_PATH_BYTES} bytes.",
        )
    return path


async def listen(path: str, mode: int = SOCKET_MODE) -> Listener:
    """Listen at ``path``. A stale socket file is replaced; ConfigurationError when somebody answers on it, when
    the file is no socket, or when the directory cannot be used."""
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, mode=DIRECTORY_MODE, exist_ok=True)
        async with asyncio.timeout(_LOCK_SECONDS):
            while True:
                with _locked(directory) as locked:
                    if locked:
                        _clear(path)
                        return _bind(path, mode)
                await asyncio.sleep(_LOCK_INTERVAL_SECONDS)
    except TimeoutError:
        raise ConfigurationError(
            f"another program holds the lock on {directory}", remedy="Stop it, or choose another --endpoint."
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"no socket can be made at {path}: {error.strerror}",
            remedy="Choose an --endpoint in a directory that can be written.",
        ) from None


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[bool]:
    """Whether the directory's lock was had: of two servers that start at once, only one sees a stale socket."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _clear(path: str) -> None:
    """Remove a stale socket file."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"{path} is there and is no socket", remedy="Remove it, or choose another --endpoint.")
    if _somebody_answers(path):
        raise ConfigurationError(f"another program answers on {path}", remedy="Stop it, or choose another --endpoint.")
    os.unlink(path)


def _somebody_answers(path: str) -> bool:
    """Only a refused connection proves that nobody does: a full backlog, for one, is somebody who is busy."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        return probe.connect_ex(path) != errno.ECONNREFUSED


def _bind(path: str, mode: int) -> Listener:
    """Nobody can connect between bind and chmod: a socket that does not listen yet refuses everybody."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        server.bind(path)
        try:
            os.chmod(path, mode)
            server.listen(BACKLOG)
            found = os.lstat(path)
        except BaseException:
            os.unlink(path)
            raise
    except BaseException:
        server.close()
        raise
    return Listener(server, path, found.st_dev, found.st_ino)
