"""This host's identity towards NVMe targets: one hostnqn and hostid pair, the same for the node's whole life.

Arrays fence by it (allowed hosts), and the kernel refuses two hostids for one hostnqn (fabrics.c), so that it
must never change by itself: not with the container, not with an update of nvme-cli.
"""

import json
import os
import re
import uuid
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


def load_identity(host: HostPaths, state_dir: str) -> HostIdentity:
    """The pair of /etc/nvme when both files are valid; else the one kept in ``state_dir``, made when missing.

    Blocking: once, at start. ConfigurationError when a new pair cannot be kept, because a pair that changes at
    every start locks the node out of its own volumes.
    """
    given = _pair(_read(f"{host.etc_nvme}/hostnqn"), _read(f"{host.etc_nvme}/hostid"), host.etc_nvme)
    if given is not None:
        return given
    path = os.path.join(state_dir, FILE_NAME)
    kept = _kept(path)
    if kept is not None:
        return kept
    made = _derive(_read(host.below("etc", "machine-id")), path)
    try:
        os.makedirs(state_dir, mode=0o700, exist_ok=True)
        write_atomically(path, json.dumps({"hostnqn": made.hostnqn, "hostid": made.hostid}).encode() + b"\n")
    except OSError as error:
        raise ConfigurationError(
            f"the host identity cannot be kept in {path}: {error.strerror}",
            remedy=f"Make {state_dir} writable, or give the host {host.etc_nvme}/hostnqn and hostid.",
        ) from error
    return made


def _kept(path: str) -> HostIdentity | None:
    try:
        values = json.loads(_read(path) or "null")
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    return _pair(str(values.get("hostnqn", "")), str(values.get("hostid", "")), path)


def _derive(machine_id: str, path: str) -> HostIdentity:
    known = _MACHINE_ID.fullmatch(machine_id) is not None
    hostid = str(uuid.uuid5(_UUID_NAMESPACE, machine_id) if known else uuid.uuid4())
    return HostIdentity(_NQN_OF_UUID + hostid, hostid, path)


def _pair(hostnqn: str, hostid: str, source: str) -> HostIdentity | None:
    lowered = hostid.lower()
    if not _UUID.fullmatch(lowered) or lowered == _NIL:
        return None
    try:
        return HostIdentity(check_nqn(hostnqn), lowered, source)
    except InvalidArgument:
        return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(4096).strip()
    except OSError:
        return ""
