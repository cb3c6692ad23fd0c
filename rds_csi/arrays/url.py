"""Array URLs: taken apart, and every part that cannot be right refused in one sentence."""

import os
import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from rds_csi.errors import ConfigurationError, InvalidArgument
from rds_csi.model.connection import nearest
from rds_csi.model.paths import check_path


@dataclass(frozen=True, slots=True)
class ArrayUrl:
    """The parts of an array's URL. ``port`` is 0 when none is named; ``path`` and ``user`` are unquoted."""

    text: str
    host: str
    port: int
    path: str
    query: Mapping[str, str]
    user: str = ""


def parse_array_url(text: str, *, form: str, keys: Collection[str] = (), user: bool = False) -> ArrayUrl:
    """Split ``text``; ``form`` shows how such a URL reads, ``keys`` are the query's known ones.

    ``user``: whether the URL may name a user. ConfigurationError for passwords (they come from files),
    fragments, unknown or doubled keys. What is refused is not repeated: a password may stand anywhere in it.
    """
    remedy = f"It reads {form}."
    try:
        parts = urlsplit(text)
        _check_plain(parts, remedy, user)
        port = parts.port or 0
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigurationError(
            "the array's URL cannot be taken apart: its host, port or query is wrong", remedy=remedy
        ) from None
    for key, _ in query:
        if key not in keys:
            known = f"known are {', '.join(sorted(keys))}" if keys else "none is known"
            hint = nearest(key, sorted(keys))
            raise ConfigurationError(f"the array's URL has the unknown key {key!r}{hint}; {known}", remedy=remedy)
    if len(dict(query)) != len(query):
        raise ConfigurationError("the array's URL names a key twice", remedy=remedy)
    return ArrayUrl(text, parts.hostname or "", port, unquote(parts.path), dict(query), unquote(parts.username or ""))


def _check_plain(parts: SplitResult, remedy: str, user: bool) -> None:
    if not user and (parts.username is not None or parts.password is not None):
        raise ConfigurationError("the array's URL has a user name or password, which it has no use for", remedy=remedy)
    if parts.password is not None:
        raise ConfigurationError("the array's URL has a password, which belongs in a file", remedy=remedy)
    if parts.fragment:
        raise ConfigurationError("the array's URL has a fragment (what follows a #)", remedy=remedy)


def array_directory(path: str, form: str) -> str:
    """``path`` itself, when it can be an array's directory; its last part is made when it is missing.

    Only the last: a missing parent is rather a filesystem that is not mounted, or a slip of the pen. Blocking.
    """
    try:
        checked = check_path(path, "the array's directory")
    except InvalidArgument as error:
        raise ConfigurationError(error.message, remedy=f"The URL reads {form}.") from None
    parent = posixpath.dirname(checked)
    if not os.path.isdir(parent):
        raise ConfigurationError(
            f"the array's directory {checked} cannot be made: {parent} is not a directory",
            remedy=f"Mount or make {parent}, or name another directory.",
        )
    try:
        os.makedirs(checked, mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the array's directory {checked} cannot be used: {error.strerror}", remedy="Name another directory."
        ) from None
    if not os.access(checked, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"the array's directory {checked} may not be written by this user",
            remedy="Change its owner or mode, or name another directory.",
        )
    return checked
