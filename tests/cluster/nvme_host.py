"""A made-up host with NVMe sessions for a real driver: what the kernel shows, and what it does when it is asked."""

import uuid
from pathlib import Path

from rds_csi.filesystem.records import to_json
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import NvmeTarget
from tests.support.nvme_tree import HOSTNQN, NvmeTree

_DELETE = "delete_controller"


class NvmeHost:
    """A host below ``directory``/root, with the driver's state beside it; for the connector ``fabrics``."""

    def __init__(self, directory: Path) -> None:
        root = directory / "root"
        root.mkdir()
        self._tree = NvmeTree(root)
        self._state = directory / "state"
        self._boot_id = str(uuid.uuid4())
        boot_id = self._tree.path("proc/sys/kernel/random/boot_id")
        boot_id.parent.mkdir(parents=True)
        boot_id.write_text(f"{self._boot_id}\n")
        init = self._tree.path("proc/1/mountinfo")
        init.parent.mkdir()
        init.touch()
        self._sessions: dict[str, int] = {}
        self.host_nqn = HOSTNQN
        self.flags = (f"--host-root={root}", f"--state-dir={self._state}", "--connector=fabrics")

    def add_session(self, nqn: str) -> None:
        """A live session without a namespace."""
        number = self._tree.add_session(nqn)
        self._tree.path(f"sys/class/nvme/nvme{number}", _DELETE).touch()
        self._sessions[nqn] = number

    def stage(self, volume_id: str, nqn: str) -> None:
        """The record of a block volume that was staged here since the start of the host."""
        record = StageRecord(
            volume_id=volume_id,
            staging_path=f"/staging/{volume_id}",
            target=NvmeTarget(nqn, ("192.0.2.1",)),
            config=ConnectionConfig(),
            size=1 << 30,
            attachment="",
            boot_id=self._boot_id,
            block=True,
        )
        directory = self._state / "volumes"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{volume_id}.json").write_bytes(to_json(record))

    def set_state(self, nqn: str, state: str) -> None:
        """What the session's controller shows: ``live``, ``connecting``."""
        self._tree.set_state(self._sessions[nqn], state)

    def obey(self) -> None:
        """Take away the sessions that the driver wants to be gone: the kernel would do so at once."""
        for nqn, number in list(self._sessions.items()):
            if self._tree.path(f"sys/class/nvme/nvme{number}", _DELETE).read_text():
                self._tree.remove_session(number)
                del self._sessions[nqn]

    def has_session(self, nqn: str) -> bool:
        """Whether it is still there."""
        return nqn in self._sessions
