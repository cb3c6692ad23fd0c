"""Paths of a request: absolute, plain, without surprises."""

import posixpath

from rds_csi.errors import InvalidArgument

# linux/limits.h: PATH_MAX counts the closing NUL.
MAX_PATH_BYTES = 4095


def check_path(path: str, field: str) -> str:
    """``path`` itself without a trailing slash, when it is absolute, normal and printable.

    Raises InvalidArgument for "", relative paths, ``..``, control characters, ``/`` and > 4095 bytes.
    """
    if not path:
        raise InvalidArgument(f"{field} is missing")
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise InvalidArgument(f"{field} is longer than {MAX_PATH_BYTES} bytes")
    if not path.startswith("/"):
        raise InvalidArgument(f"{field} is not an absolute path: {path!r}")
    if any(not character.isprintable() for character in path):
        raise InvalidArgument(f"{field} has control characters: {path!r}")
    if ".." in path.split("/"):
        raise InvalidArgument(f"{field} climbs with '..': {path!r}")
    normal = "/" + posixpath.normpath(path).lstrip("/")
    if normal == "/":
        raise InvalidArgument(f"{field} is the root directory")
    return normal
