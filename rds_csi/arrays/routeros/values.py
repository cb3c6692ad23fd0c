r"""Values and paths on their way into a RouterOS command: one quoting, one normal form.

RouterOS quotes with ``"``, and inside of it ``\ $ ? "`` mean something ("Scripting" in MikroTik's manual). Nothing of
that is ever needed: what a value may hold is a short list, so nothing needs escaping and nothing can break out.
"""

import re
from collections.abc import Mapping

from rds_csi.errors import InvalidArgument

_VALUE = re.compile(r"[A-Za-z0-9._/:,+-]*")
_PROPERTY = re.compile(r"[a-z][a-z0-9-]*")


def check_value(text: str, field: str) -> str:
    """``text`` itself when it may be a value in a command: only ``A-Z a-z 0-9 . _ / : , + -``, or nothing at all.

    InvalidArgument names ``field``, never the value: it could be a secret that was put in the wrong place.
    """
    if not _VALUE.fullmatch(text):
        raise InvalidArgument(f"{field} has characters that no value on the array may have (A-Z a-z 0-9 . _ / : , + -)")
    return text


def check_properties(properties: Mapping[str, str]) -> None:
    """InvalidArgument unless every name is one of RouterOS's form and every value may be in a command."""
    for name, value in properties.items():
        if not _PROPERTY.fullmatch(name):
            raise InvalidArgument(f"{name[:40]!r} is no property of RouterOS")
        check_value(value, name)


def quote(text: str, field: str = "a value") -> str:
    """``text`` as a RouterOS string literal; InvalidArgument for what ``check_value`` refuses."""
    return f'"{check_value(text, field)}"'


def escape(script: str) -> str:
    """A script made of checked values as a string literal, for ``:execute script=``."""
    return '"' + re.sub(r'([\\"$?])', r"\\\1", script) + '"'


def normal_path(text: str) -> str:
    """A path as ``/file`` lists it: ``/raid10/x.img``, as ``/disk`` prints it, becomes ``raid10/x.img``.

    InvalidArgument for an empty one, ``//``, ``.`` and ``..`` parts, and characters that ``check_value`` refuses: two
    paths that are equal here are one file, and two that differ are two (lessons, I1).
    """
    path = check_value(text, "a path").removeprefix("/").removesuffix("/")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise InvalidArgument(f"{text!r} is no path on the array")
    return path
