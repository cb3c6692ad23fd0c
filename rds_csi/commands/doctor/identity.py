"""The doctor on the host identity: where it comes from, and whether it can be told from that of others. Blocking."""

import uuid
from collections.abc import Sequence

from rds_csi.commands.doctor.findings import Result, ok, warning
from rds_csi.model.host import HostPaths
from rds_csi.nvme.identity import HostIdentity, find_broken_pairs, find_identity, path_of, read_machine_id

_SUBJECT = "host identity"
# Nobody's own: zeros and ones, and what boards give as product UUID whose maker never set one (in both byte orders).
_SHARED = {
    str(uuid.UUID(int=0)),
    str(uuid.UUID(int=(1 << 128) - 1)),
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
}
_COMPARE = "Run this on every node: no two may show the same hostnqn, or each could write to the other's volumes."
_NEW_PAIR = (
    "Remove both files, so that the driver makes a pair of its own, or write a new one: "
    "nvme gen-hostnqn > {0}/hostnqn; uuidgen > {0}/hostid. Do it while no volume is attached here: "
    "arrays know the node by it."
)
_RESTORE = "Restore it from a backup, or let the driver make a new one and attach this node's volumes anew."


def look_at_identity(host: HostPaths, state_dir: str) -> Sequence[Result]:
    """Where the pair comes from that this node shows to arrays, and every pair on the way that cannot be used.

    OSError when a file is there and cannot be read.
    """
    results = []
    for pair in find_broken_pairs(host, state_dir):
        if pair.source == host.etc_nvme:
            message, remedy = f"the pair in {pair.source} is not used", _NEW_PAIR.format(host.etc_nvme)
        else:
            message, remedy = f"{pair.source} is damaged", _RESTORE
        results.append(warning(_SUBJECT, f"{message}: {pair.problem}", remedy))
    found = find_identity(host, state_dir)
    return [*results, _told(found, host) if found is not None else _future(host, path_of(state_dir))]


def _told(identity: HostIdentity, host: HostPaths) -> Result:
    message = f"{identity.hostnqn} with hostid {identity.hostid}, from {identity.source}"
    shared = [value for value in _SHARED if value in f"{identity.hostnqn} {identity.hostid}".lower()]
    if not shared:
        return ok(_SUBJECT, message, _COMPARE)
    remedy = f"Remove {identity.source} while no volume is attached here."
    if identity.source == host.etc_nvme:
        remedy = _NEW_PAIR.format(host.etc_nvme)
    return warning(_SUBJECT, f"{message}: many machines in the world have {shared[0]}", remedy)


def _future(host: HostPaths, path: str) -> Result:
    if read_machine_id(host):
        return ok(_SUBJECT, f"none yet: the driver derives one from the machine id at its start and keeps it in {path}")
    return warning(
        _SUBJECT,
        f"none yet, and no machine id to derive it from: the driver makes one up at its start, and keeps it in {path}",
        "Run systemd-machine-id-setup on the host, so that the identity survives the loss of that file.",
    )
