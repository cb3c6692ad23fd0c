"""Devices that the kernel has just made: it reads their partition tables in its own time.

A link that is cut meanwhile leaves the kernel's worker waiting for as long as the target is away, and with it, in state
D, whoever opens the device or disconnects the session.
"""

import os
from pathlib import Path

from rds_csi.model.host import HostPaths
from rds_csi.nvme.sessions import Session
from rds_csi.nvme.sysfs import NvmeSysfs
from tests.support.waiting import wait_until


def settle(nqn: str) -> None:
    """Return when the partition table of each namespace of a session has been read; at once where there is none."""
    session = NvmeSysfs(HostPaths()).session(nqn)
    if session is None or not session.namespaces or not any(path.is_live for path in session.controllers):
        return
    wait_until(lambda: _has_been_read(session), f"the partition table of {nqn} is being read")
    for namespace in session.namespaces:
        # Whoever opens the device waits for the end of the kernel's own look.
        os.close(os.open(f"/dev/{namespace.device}", os.O_RDONLY))


def _has_been_read(session: Session) -> bool:
    """Whether a path to a namespace has seen a read (the first field of Linux's Documentation/ABI block/stat)."""
    stats = [stat for path in session.controllers for stat in Path("/sys/class/nvme", path.name).glob("nvme*n*/stat")]
    return any(int(stat.read_text().split()[0]) > 0 for stat in stats)
