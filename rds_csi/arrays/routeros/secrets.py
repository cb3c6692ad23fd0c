"""Secrets in files: read whenever they are needed, so that a rotated one counts, and shown to nobody."""

import os
import re
import stat
from dataclasses import dataclass, field

from rds_csi.arrays.routeros.errors import BadCredentials
from rds_csi.errors import ConfigurationError
from rds_csi.model.volumes import Finding

# Bytes. Beyond any key, password or certificate file: a wrong path must not fill the memory.
_MAX_FILE_BYTES = 1 << 20
# RouterOS manual, "User": begins and ends alphanumeric; neither "*" nor ":" (which ends the name in HTTP Basic).
_USER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]*[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and the password, which no text of this object shows."""

    user: str
    password: str = field(repr=False)


def check_user(name: str, where: str) -> str:
    """``name`` itself, when RouterOS can have a user of that name; ConfigurationError otherwise."""
    if not _USER.fullmatch(name):
        # Not repeated: what is no name may be a password in the wrong place.
        raise ConfigurationError(
            f"{where} has no usable user name", remedy="Letters, digits and . _ - @ inside are what it may have."
        )
    return name


def read_file(path: str, what: str) -> bytes:
    """The content of the secret's file, never empty. Blocking. BadCredentials names the path only."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadCredentials(
            f"{what} {path} cannot be read: {error.strerror}", remedy="Mount it, or correct the array's URL."
        ) from None
    if len(data) > _MAX_FILE_BYTES:
        raise BadCredentials(f"{what} {path} is larger than {_MAX_FILE_BYTES} bytes", remedy="Name the right file.")
    if not data.strip():
        raise BadCredentials(f"{what} {path} is empty", remedy="Write the secret into it.")
    return data


def _read_text(path: str, what: str) -> str:
    try:
        text = read_file(path, what).decode()
    except UnicodeDecodeError:
        # The error itself is not passed on: it holds the bytes.
        raise BadCredentials(f"{what} {path} is not UTF-8 text", remedy="Write it again as plain text.") from None
    return text.removesuffix("\n").removesuffix("\r")


def read_password(path: str) -> str:
    """The password in ``path``, without the newline at its end. Blocking."""
    text = _read_text(path, "the password file")
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        raise BadCredentials(
            f"the password file {path} has several lines or control characters",
            remedy="It holds one password and nothing else.",
        )
    return text


def read_users(path: str) -> tuple[Credentials, ...]:
    """The users in ``path``: a line ``user:password`` for each; empty lines are skipped. Blocking."""
    found: dict[str, Credentials] = {}
    for number, line in enumerate(_read_text(path, "the users file").splitlines(), start=1):
        if not line:
            continue
        name, separator, password = line.partition(":")
        if not separator or not password or not _USER.fullmatch(name) or name in found:
            raise BadCredentials(
                f"line {number} of the users file {path} is not user:password, or names a user again",
                remedy="Each line holds one user, a colon and the password.",
            )
        found[name] = Credentials(name, password)
    return tuple(found.values())


def examine(path: str, what: str) -> Finding:
    """Whether the secret's file is there. Blocking; never raises.

    One that everybody may read is told with the remedy and is no fault: a container's secrets often are like that.
    """
    try:
        read_file(path, what)
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except BadCredentials as error:
        return Finding(what, False, error.message, error.remedy)
    except OSError as error:
        return Finding(what, False, f"{what} {path} cannot be looked at: {error.strerror}")
    if mode & stat.S_IROTH:
        return Finding(what, True, f"{what} {path} can be read by everybody (mode {mode:04o})", f"chmod o-rwx {path}")
    return Finding(what, True, f"{what} {path} is there, mode {mode:04o}")
