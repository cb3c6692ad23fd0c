"""Files that are whole or not there: temporary file, fsync, rename, fsync of the directory."""

import contextlib
import os
import tempfile

# A writer that was killed leaves a file of this prefix, followed by the name that it was to have.
TEMPORARY_PREFIX = ".new-"


def remove_leftovers(path: str) -> None:
    """Remove what killed writers of ``path`` left; nobody may be writing it now."""
    directory, name = os.path.split(path)
    for entry in os.listdir(directory):
        if entry.startswith(f"{TEMPORARY_PREFIX}{name}."):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, entry))


def sync_directory(path: str) -> None:
    """Make the names in a directory survive a power cut (fsync(2), NOTES)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: str, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace ``path`` with ``data``: a reader, or a power cut, sees the old content or the new, never a part.

    Blocking: call it in a worker. OSError (ENOSPC…) leaves the old content in place and no temporary file.
    Without ``durable`` only readers are safe: a power cut soon after may leave the old content, or an empty file.
    """
    directory, name = os.path.split(path)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=f"{TEMPORARY_PREFIX}{name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if durable:
        sync_directory(directory)


def remove_durably(path: str) -> bool:
    """Unlink ``path`` and make that survive a power cut; False when it was not there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    sync_directory(os.path.dirname(path))
    return True
