"""The file that ``config:///…`` names: several arrays by name, and the one that is meant where none is named.

TOML: ``default = "fast"``, and for each array a table ``[arrays.fast]`` with its ``url``.
"""

import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

from rds_csi.arrays.protocol import Array, ArrayOptions
from rds_csi.errors import ConfigurationError
from rds_csi.model.connection import nearest

Opener = Callable[[str, ArrayOptions], Array]

SCHEME = "config"
_ENTRY_POINTS = "rds_csi.arrays"
_TOP_KEYS = ("default", "arrays")
_ARRAY_KEYS = ("url",)
# Bytes. Some hundred arrays; a larger file is another one.
_MAX_BYTES = 1 << 20

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_FORM = 'It reads: default = "fast", then [arrays.fast] with url = "routeros+ssh://…" for each array.'


@dataclass(frozen=True, slots=True)
class SeveralConfig:
    """``urls`` by array name, in the file's order; ``default`` is one of the names."""

    default: str
    urls: Mapping[str, str]


def read_config(path: str) -> SeveralConfig:
    """The file at ``path``. Blocking. ConfigurationError says in one sentence what is wrong with it."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"the arrays' file {path} cannot be read: {error.strerror}", remedy="Correct config:///path in --array."
        ) from None
    if len(data) > _MAX_BYTES:
        raise _wrong(path, f"is larger than {_MAX_BYTES} bytes")
    try:
        return parse_config(data.decode(), path)
    except UnicodeDecodeError:
        raise _wrong(path, "is not UTF-8 text") from None


def parse_config(text: str, path: str) -> SeveralConfig:
    """The config in ``text``; ``path`` is for messages."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        # Its words name line and column only, never what stands there.
        raise _wrong(path, f"is no TOML: {error}") from None
    _check_keys(document, _TOP_KEYS, path, "at its top")
    arrays = document.get("arrays")
    if not isinstance(arrays, dict) or not arrays:
        raise _wrong(path, "names no array")
    urls = {name: _url(name, table, path) for name, table in arrays.items()}
    for name, url in urls.items():
        twins = [other for other in urls if urls[other] == url and other != name]
        if twins:
            raise _wrong(path, f"has one URL for the arrays {name} and {twins[0]}")
    return SeveralConfig(_default(document, urls, path), urls)


def open_children(urls: Mapping[str, str], options: ArrayOptions, opener: Opener) -> Mapping[str, Array]:
    """Every array by its name; ConfigurationError names the one that cannot work."""
    children = {}
    for name, url in urls.items():
        try:
            children[name] = opener(url, options)
        except ConfigurationError as error:
            raise ConfigurationError(f"array {name}: {error.message}", remedy=error.remedy) from None
    return children


def open_by_scheme(url: str, options: ArrayOptions) -> Array:
    """The array at ``url``, by the entry point of its scheme."""
    known = {entry.name: entry for entry in entry_points(group=_ENTRY_POINTS) if entry.name != SCHEME}
    array: Array = known[check_scheme(url, known)].load()(url, options)
    return array


def known_schemes() -> Collection[str]:
    """The schemes of all arrays that are installed."""
    return {entry.name for entry in entry_points(group=_ENTRY_POINTS)}


def check_scheme(url: str, known: Collection[str]) -> str:
    """The scheme of the URL; ConfigurationError, with the nearest one, when it is none of the known ones."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ConfigurationError(f"the array {scheme[:64]!r} is not a URL", remedy="It reads local:///dir, for one.")
    if scheme not in known:
        hint = nearest(scheme, sorted(known))
        raise ConfigurationError(
            f"there is no array {scheme[:64]!r}{hint}", remedy=f"Known are {', '.join(sorted(known))}."
        )
    return scheme


def _url(name: str, table: object, path: str) -> str:
    if not _NAME.fullmatch(name):
        raise _wrong(path, f"has the array name {name[:64]!r}: a-z, 0-9 and - inside are what it may have")
    if not isinstance(table, dict):
        raise _wrong(path, f"has no table for the array {name}")
    _check_keys(table, _ARRAY_KEYS, path, f"in [arrays.{name}]")
    url = table.get("url")
    if not isinstance(url, str) or "://" not in url:
        raise _wrong(path, f"has no url in [arrays.{name}]")
    if url.startswith(f"{SCHEME}:"):
        raise _wrong(path, f"has another file of arrays in [arrays.{name}]: they do not nest")
    return url


def _default(document: Mapping[str, object], urls: Mapping[str, str], path: str) -> str:
    default = document.get("default", next(iter(urls)) if len(urls) == 1 else None)
    if default is None:
        raise _wrong(path, "does not say which array is the default")
    if not isinstance(default, str) or default not in urls:
        hint = nearest(default, sorted(urls)) if isinstance(default, str) else ""
        raise _wrong(path, f"has a default that is none of its arrays{hint}; they are {', '.join(urls)}")
    return default


def _check_keys(table: Mapping[str, object], known: Collection[str], path: str, where: str) -> None:
    for key in table:
        if key not in known:
            hint = nearest(key, sorted(known))
            raise _wrong(path, f"has the unknown key {key[:64]!r} {where}{hint}; known are {', '.join(known)}")


def _wrong(path: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"the arrays' file {path} {what}", remedy=_FORM)
