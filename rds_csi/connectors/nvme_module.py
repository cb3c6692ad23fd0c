"""The kernel's NVMe/TCP host: /dev/nvme-fabrics, and the module nvme-tcp that brings it."""

import asyncio
import os

from rds_csi.errors import DriverError
from rds_csi.model.host import HostPaths
from rds_csi.model.volumes import Finding
from rds_csi.process import Runner

# Seconds. Loading the module takes a second on a slow machine.
_MODPROBE_SECONDS = 20.0
_REMEDY = "Run modprobe nvme-tcp on the node, and load it at every start from /etc/modules-load.d."


class NvmeModule:
    """Sees to it that the kernel can connect. Where loading the module has failed it is not tried again."""

    def __init__(self, host: HostPaths, runner: Runner) -> None:
        self._device = f"{host.dev}/nvme-fabrics"
        self._runner = runner
        # Calls that come while the module is being loaded wait for that.
        self._loading = asyncio.Lock()
        self._failed = False

    async def ensure(self) -> Finding:
        """Whether the kernel can connect now, after an attempt to load the module where it is missing.

        Never raises a DriverError: a modprobe that does not come back is a finding too.
        """
        detail = "" if self._is_there() else await self._load()
        if self._is_there():
            return Finding("nvme-tcp", True, f"{self._device} is there")
        return Finding("nvme-tcp", False, f"{self._device} is missing{detail}", _REMEDY)

    async def _load(self) -> str:
        """Why the module could not be loaded; "" when it was, or when nothing was tried."""
        async with self._loading:
            if self._failed or self._is_there():
                return ""
            try:
                completed = await self._runner.run("modprobe", "nvme-tcp", timeout=_MODPROBE_SECONDS)
                detail = f" (modprobe: {completed.last_line})" if completed.returncode != 0 else ""
            except DriverError as error:
                detail = f" ({error.message})"
            self._failed = not self._is_there()
            return detail

    def _is_there(self) -> bool:
        # stat(2) in devtmpfs asks no device: it costs less than waking a thread for it.
        return os.path.exists(self._device)
