"""Where the host's trees are: ``--host-root`` relocates them all in one go."""

import posixpath
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostPaths:
    """The host's /sys, /proc, /dev, /run and /etc/nvme below ``root`` (a container's view, or a test's)."""

    root: str = "/"

    def below(self, *parts: str) -> str:
        """The path of ``/part/part…`` of the host, as this process reaches it."""
        return posixpath.join(self.root, *(part.lstrip("/") for part in parts))

    @property
    def sys(self) -> str:
        """sysfs."""
        return self.below("sys")

    @property
    def proc(self) -> str:
        """procfs."""
        return self.below("proc")

    @property
    def dev(self) -> str:
        """devtmpfs."""
        return self.below("dev")

    @property
    def run(self) -> str:
        """Run-time state that a reboot clears."""
        return self.below("run")

    @property
    def etc_nvme(self) -> str:
        """nvme-cli's own configuration: hostnqn and hostid."""
        return self.below("etc", "nvme")
