"""The array's URL as options: ``routeros+ssh://…`` and ``routeros+https://…``, every value checked once.

Reads no file: secrets are read when they are used (see ``secrets``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeVar

from rds_csi.arrays.routeros.secrets import check_user
from rds_csi.arrays.url import ArrayUrl, parse_array_url
from rds_csi.errors import ConfigurationError, InvalidArgument
from rds_csi.model.connection import nearest
from rds_csi.model.paths import check_path
from rds_csi.model.targets import DEFAULT_NVME_PORT, check_address

SSH_SCHEME = "routeros+ssh"
HTTPS_SCHEME = "routeros+https"
DEFAULT_BASE = "rds-csi"
DEFAULT_CLUSTER = "default"
DEFAULT_CHANNELS = 4
# RouterOS: /ip/service max-sessions is 20 unless somebody changed it.
MAX_CHANNELS = 20

_SSH_FORM = f"{SSH_SCHEME}://user@host[:22]/?pool=raid10&key-file=/path&known-hosts=/path"
_HTTPS_FORM = f"{HTTPS_SCHEME}://user@host[:443]/?pool=raid10&password-file=/path&tls-ca=/path"
_COMMON_KEYS = ("pool", "base", "cluster", "nvme-address", "nvme-port", "fencing", "snapshots")
_SSH_KEYS = (*_COMMON_KEYS, "key-file", "known-hosts", "accept-first-host-key", "channels")
_HTTPS_KEYS = (*_COMMON_KEYS, "password-file", "users-file", "tls-ca", "tls-fingerprint")

# Slots and directories: what needs no quoting anywhere in RouterOS and is no pattern.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_FINGERPRINT = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Fencing(Enum):
    """How the array keeps nodes out that have no attachment."""

    NONE = "none"
    ALLOW_HOST = "allow-host"
    EXPORT = "export"


class SnapshotMeans(Enum):
    """What snapshots and clones are made with."""

    NONE = "none"
    BTRFS_SUBVOLUME = "btrfs-subvolume"
    FILE_COPY = "file-copy"


@dataclass(frozen=True, slots=True)
class SshOptions:
    """How the device is reached over SSH. Paths are absolute."""

    host: str
    user: str
    key_file: str
    known_hosts: str
    port: int = 22
    accept_first_host_key: bool = False
    channels: int = DEFAULT_CHANNELS

    @property
    def secret_files(self) -> tuple[tuple[str, str], ...]:
        """What each file with a secret is, and its path."""
        return (("the key file", self.key_file),)


@dataclass(frozen=True, slots=True)
class RestOptions:
    """How the device is reached over REST: ``user`` with ``password_file``, or the users of ``users_file``;
    ``tls_ca`` (a PEM file) or ``tls_fingerprint`` (sha256 of the certificate, 64 hex digits)."""

    host: str
    user: str = ""
    password_file: str = ""
    users_file: str = ""
    tls_ca: str = ""
    tls_fingerprint: str = ""
    port: int = 443

    @property
    def secret_files(self) -> tuple[tuple[str, str], ...]:
        """What each file with a secret is, and its path."""
        if self.users_file:
            return (("the users file", self.users_file),)
        return (("the password file", self.password_file),)


@dataclass(frozen=True, slots=True)
class RouterosOptions:
    """A RouterOS array: the way to it, and what of it is ours.

    ``pool`` is the slot of the pool's disk, ``base`` the directory in it for our files; ``nvme_addresses`` and
    ``nvme_port`` are the portals that nodes connect to.
    """

    transport: SshOptions | RestOptions
    pool: str
    driver_name: str
    nqn_prefix: str
    nvme_addresses: tuple[str, ...]
    base: str = DEFAULT_BASE
    cluster: str = DEFAULT_CLUSTER
    nvme_port: int = DEFAULT_NVME_PORT
    fencing: Fencing = Fencing.NONE
    snapshots: SnapshotMeans = SnapshotMeans.NONE


class Naming(Protocol):
    """What of ``ArrayOptions`` counts here."""

    @property
    def nqn_prefix(self) -> str: ...

    @property
    def driver_name(self) -> str: ...


def parse(url: str, options: Naming) -> RouterosOptions:
    """The options in ``url``; ConfigurationError says in one sentence what is wrong."""
    scheme, _, _ = url.partition("://")
    if scheme not in (SSH_SCHEME, HTTPS_SCHEME):
        raise ConfigurationError("the array's URL has another scheme", remedy=f"It reads {_SSH_FORM}.")
    over_ssh = scheme == SSH_SCHEME
    form, keys = (_SSH_FORM, _SSH_KEYS) if over_ssh else (_HTTPS_FORM, _HTTPS_KEYS)
    parts = parse_array_url(url, form=form, keys=keys, user=True)
    remedy = f"It reads {form}."
    if not parts.host:
        raise ConfigurationError("the array's URL names no host", remedy=remedy)
    if parts.path not in ("", "/"):
        raise ConfigurationError(
            "the array's URL has a path", remedy=f"The directory in the pool is the key base. {remedy}"
        )
    try:
        check_address(parts.host, "the host")
        transport = _ssh(parts, remedy) if over_ssh else _rest(parts, remedy)
        return RouterosOptions(
            transport=transport,
            pool=_name(_needed(parts.query, "pool", remedy), "pool"),
            driver_name=options.driver_name,
            nqn_prefix=options.nqn_prefix,
            nvme_addresses=_addresses(parts.query.get("nvme-address", parts.host)),
            base="/".join(_name(part, "base") for part in parts.query.get("base", DEFAULT_BASE).split("/")),
            cluster=_name(parts.query.get("cluster", cluster_of(options.nqn_prefix)), "cluster"),
            nvme_port=_number(parts.query, "nvme-port", DEFAULT_NVME_PORT, 65535),
            fencing=_choice(parts.query, "fencing", Fencing.NONE),
            snapshots=_choice(parts.query, "snapshots", SnapshotMeans.NONE),
        )
    except InvalidArgument as error:
        raise ConfigurationError(f"the array's URL is wrong: {error.message}", remedy=remedy) from None


def cluster_of(nqn_prefix: str) -> str:
    """The cluster that a prefix names: ``prod`` of ``nqn.2026-01.io.rds-csi:prod:``; "default" when it names none."""
    _, _, rest = nqn_prefix.partition(":")
    return rest.rstrip(".:").rpartition(":")[2] or DEFAULT_CLUSTER


def _ssh(parts: ArrayUrl, remedy: str) -> SshOptions:
    query = parts.query
    accept = query.get("accept-first-host-key", "no")
    if accept not in ("yes", "no"):
        raise InvalidArgument("accept-first-host-key is neither yes nor no")
    return SshOptions(
        host=parts.host,
        user=check_user(parts.user, "the array's URL"),
        key_file=check_path(_needed(query, "key-file", remedy), "key-file"),
        known_hosts=check_path(_needed(query, "known-hosts", remedy), "known-hosts"),
        port=parts.port or 22,
        accept_first_host_key=accept == "yes",
        channels=_number(query, "channels", DEFAULT_CHANNELS, MAX_CHANNELS),
    )


def _rest(parts: ArrayUrl, remedy: str) -> RestOptions:
    query = parts.query
    _one_of(query, "password-file", "users-file", remedy)
    _one_of(query, "tls-ca", "tls-fingerprint", remedy)
    if "users-file" in query and parts.user:
        raise ConfigurationError(
            "the array's URL names a user and a users-file", remedy="The users-file alone names the users."
        )
    fingerprint = query.get("tls-fingerprint", "").replace(":", "").lower()
    if "tls-fingerprint" in query and not _FINGERPRINT.fullmatch(fingerprint):
        raise InvalidArgument("tls-fingerprint is not a sha256 in 64 hexadecimal digits")
    return RestOptions(
        host=parts.host,
        user="" if "users-file" in query else check_user(parts.user, "the array's URL"),
        password_file=_path(query, "password-file"),
        users_file=_path(query, "users-file"),
        tls_ca=_path(query, "tls-ca"),
        tls_fingerprint=fingerprint,
        port=parts.port or 443,
    )


def _needed(query: Mapping[str, str], key: str, remedy: str) -> str:
    if not query.get(key):
        raise ConfigurationError(f"the array's URL does not name {key}", remedy=remedy)
    return query[key]


def _one_of(query: Mapping[str, str], first: str, second: str, remedy: str) -> None:
    if (first in query) == (second in query):
        raise ConfigurationError(f"the array's URL has to name either {first} or {second}", remedy=remedy)


def _path(query: Mapping[str, str], key: str) -> str:
    return check_path(query[key], key) if key in query else ""


def _name(text: str, key: str) -> str:
    if not _NAME.fullmatch(text) or ".." in text:
        raise InvalidArgument(f"{key} has the value {text[:64]!r}: letters, digits and . _ - are allowed")
    return text


def _number(query: Mapping[str, str], key: str, default: int, largest: int) -> int:
    text = query.get(key, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= largest):
        raise InvalidArgument(f"{key} has the value {text[:64]!r}: a number from 1 to {largest} is needed")
    return int(text)


def _addresses(text: str) -> tuple[str, ...]:
    addresses = tuple(check_address(address, "nvme-address") for address in text.split(","))
    if len(set(addresses)) != len(addresses):
        raise InvalidArgument("nvme-address names an address twice")
    return addresses


Choice = TypeVar("Choice", Fencing, SnapshotMeans)


def _choice(query: Mapping[str, str], key: str, default: Choice) -> Choice:
    text = query.get(key, default.value)
    members = {member.value: member for member in type(default)}
    if text not in members:
        hint = nearest(text, sorted(members))
        raise InvalidArgument(f"{key} has the value {text[:64]!r}{hint}; known are {', '.join(members)}")
    return members[text]
