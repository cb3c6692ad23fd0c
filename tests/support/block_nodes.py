"""Made-up device nodes: block special files without mknod."""

from rds_csi.blockdev.nodes import BlockNodes
from rds_csi.model.devices import DeviceNumber


class FakeBlockNodes(BlockNodes):
    """``numbers`` is what is below /dev (path → device), ``claimed`` the paths that an exclusive open refuses."""

    def __init__(self) -> None:
        self.numbers: dict[str, DeviceNumber] = {}
        self.claimed: set[str] = set()

    def number_of(self, path: str) -> DeviceNumber | None:
        return self.numbers.get(path)

    def is_claimed(self, path: str) -> bool:
        return path in self.claimed
