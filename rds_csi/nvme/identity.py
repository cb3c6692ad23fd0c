"""This host's identity towards NVMe targets: one hostnqn and hostid pair, the same for the node's whole life.

Arrays fence by it (allowed hosts), and the kernel refuses two hostids for one hostnqn (fabrics.c), so that it
must never change by itself: not with the container, not with an update of nvme-cli.
"""

import json
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rds_csi.atomic import write_atomically
from rds_csi.errors import ConfigurationError, InvalidArgument
from rds_csi.model.host import HostPaths
from rds_csi.model.names import check_nqn

FILE_NAME = "host-identity.json"

# NVMe Base Specification 2.0, section 4.7: the form of an NQN made from a UUID.
_NQN_OF_UUID = "nqn.2014-08.org.nvmexpress:uuid:"
# Keeps the derived id apart from the machine's own, which machine-id(5) asks not to give away.
_UUID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "host-identity.rds-csi")
_MACHINE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_NIL = str(uuid.UUID(int=0))


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """``hostnqn`` and ``hostid`` (a lower-case UUID), always passed to the kernel together.

    ``source`` says for people where the pair came from.
    """

    hostnqn: str
    hostid: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class BrokenPair:
    """What stands at ``source`` (a path), where a pair is looked for, and is none; ``problem`` says why."""

    source: str
    problem: str


def find_identity(host: HostPaths, state_dir: str) -> HostIdentity | None:
    """The pair of /etc/nvme when both files are valid; else the one kept in ``state_dir``; else None.

    Changes nothing. Blocking. OSError when a file is there and cannot be read: it may hold the pair that the arrays
    know.
    """
    return next((pair for pair in _pairs(host, state_dir) if isinstance(pair, HostIdentity)), None)


def find_broken_pairs(host: HostPaths, state_dir: str) -> Sequence[BrokenPair]:
    """What ``find_identity`` passes over on its way, in its order. Changes nothing. Blocking; OSError like there."""
    broken = []
    for pair in _pairs(host, state_dir):
        if isinstance(pair, HostIdentity):
            break
        broken.append(pair)
    return broken


def load_identity(host: HostPaths, state_dir: str) -> HostIdentity:
    """What ``find_identity`` finds; else a pair derived from the machine id, or a random one, and kept.

    Blocking: once, at start. ConfigurationError when a pair cannot be read, and when a new one cannot be kept,
    because a pair that changes at every start locks the node out of its own volumes.
    """
    try:
        found = find_identity(host, state_dir)
    except OSError as error:
        raise ConfigurationError(
            f"the host identity in {error.filename} cannot be read: {error.strerror}",
            remedy="Make the file readable; remove it only while no volume is attached here.",
        ) from error
    if found is not None:
        return found
    path = path_of(state_dir)
    made = _derive(read_machine_id(host), path)
    try:
        os.makedirs(state_dir, mode=0o700, exist_ok=True)
        write_atomically(path, json.dumps({"hostnqn": made.hostnqn, "hostid": made.hostid}).encode() + b"\n")
    except OSError as error:
        raise ConfigurationError(
            f"the host identity cannot be kept in {path}: {error.strerror}",
            remedy=f"Make {state_dir} writable, or give the host {host.etc_nvme}/hostnqn and hostid.",
        ) from error
    return made


def path_of(state_dir: str) -> str:
    """The file that a pair of our own is kept in."""
    return os.path.join(state_dir, FILE_NAME)


def read_machine_id(host: HostPaths) -> str:
    """The machine's own id (machine-id(5)), from which a pair is derived; "" when it has none."""
    try:
        machine_id = _read(host.below("etc", "machine-id")) or ""
    except OSError:
        return ""
    return machine_id if _MACHINE_ID.fullmatch(machine_id) else ""


def _pairs(host: HostPaths, state_dir: str) -> Iterator[HostIdentity | BrokenPair]:
    """The places in the order of their worth; one where nothing is yields nothing."""
    hostnqn, hostid = (_read(f"{host.etc_nvme}/{name}") for name in ("hostnqn", "hostid"))
    if hostnqn is not None or hostid is not None:
        yield _pair(hostnqn, hostid, host.etc_nvme)
    path = path_of(state_dir)
    text = _read(path)
    if text is not None:
        yield _pair(*_kept(text), path)


def _kept(text: str) -> tuple[str | None, str | None]:
    try:
        values = json.loads(text)
    except ValueError:
        return None, None
    if not isinstance(values, dict):
        return None, None
    hostnqn, hostid = (str(values[name]) if name in values else None for name in ("hostnqn", "hostid"))
    return hostnqn, hostid


def _derive(machine_id: str, path: str) -> HostIdentity:
    hostid = str(uuid.uuid5(_UUID_NAMESPACE, machine_id) if machine_id else uuid.uuid4())
    return HostIdentity(_NQN_OF_UUID + hostid, hostid, path)


def _pair(hostnqn: str | None, hostid: str | None, source: str) -> HostIdentity | BrokenPair:
    if hostnqn is None or hostid is None:
        return BrokenPair(source, f"there is no {'hostnqn' if hostnqn is None else 'hostid'}")
    lowered = hostid.lower()
    if not _UUID.fullmatch(lowered):
        return BrokenPair(source, f"the hostid is not a UUID: {hostid[:64]!r}")
    if lowered == _NIL:
        return BrokenPair(source, "the hostid is all zeros")
    try:
        return HostIdentity(check_nqn(hostnqn, "the hostnqn"), lowered, source)
    except InvalidArgument as error:
        return BrokenPair(source, error.message)


def _read(path: str) -> str | None:
    """The text of a file; None when there is none. OSError when it cannot be looked at, which is never absence."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(4096).strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        # A failed read does not tell of which file.
        raise OSError(error.errno, error.strerror, path) from error
