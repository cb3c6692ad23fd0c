"""Volumes on this kernel's own NVMe/TCP target, all on one portal; the machine is thrown away."""

import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rds_csi.model.sizes import MIB
from rds_csi.model.targets import NvmeTarget
from tests.support.nvmet_target import ADDRESS, CONFIGFS, NVMET

MODULES = ("loop", "nvmet", "nvmet_tcp", "nvme_tcp", "ext4")
TRSVCID = 4420
NQN_PREFIX = "nqn.2026-01.io.rds-csi:"
TOOL_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Exported:
    """A volume as its array would describe it; ``size`` in bytes."""

    volume_id: str
    size: int
    uuid: str

    @property
    def target(self) -> NvmeTarget:
        """Where it is."""
        return NvmeTarget(NQN_PREFIX + self.volume_id, (ADDRESS,), TRSVCID, self.uuid)


def tool(*argv: str) -> str:
    """What a program prints; CalledProcessError when it fails."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=TOOL_SECONDS).stdout.strip()


class Portal:
    """One listener, and the volumes behind it."""

    def __init__(self, directory: Path) -> None:
        """Load the modules and listen; ``directory`` (on a tmpfs) gets the images."""
        self._directory = directory
        tool("modprobe", "--all", *MODULES)
        if not NVMET.is_dir():
            tool("mount", "-t", "configfs", "none", str(CONFIGFS))
        self._port = NVMET / "ports" / "1"
        self._port.mkdir()
        for name, value in {"trtype": "tcp", "adrfam": "ipv4", "traddr": ADDRESS, "trsvcid": str(TRSVCID)}.items():
            (self._port / f"addr_{name}").write_text(value)

    def blank(self, name: str, size: int) -> str:
        """A loop device on a new sparse file of ``size`` bytes; its path."""
        image = self._directory / f"{name}.img"
        with image.open("wb") as stream:
            stream.truncate(size)
        return tool("losetup", "--find", "--show", str(image))

    def formatted(self, names: Sequence[str], size: int) -> list[str]:
        """Loop devices on images with an ext4 each, made once and copied."""
        first, *others = (self._directory / f"{name}.img" for name in names)
        with first.open("wb") as stream:
            stream.truncate(size)
        # Nothing of the filesystem is left to be made in the background after its first mount.
        tool("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(first))
        for other in others:
            tool("cp", "--sparse=always", str(first), str(other))
        return [tool("losetup", "--find", "--show", str(image)) for image in (first, *others)]

    def export(self, volume_id: str, device: str, size: int) -> Exported:
        """Export a block device; several volumes may share one, as nothing is written to it by then."""
        volume = Exported(volume_id, size, str(uuid.uuid4()))
        subsystem = NVMET / "subsystems" / volume.target.nqn
        namespace = subsystem / "namespaces" / "1"
        namespace.mkdir(parents=True)
        (subsystem / "attr_allow_any_host").write_text("1")
        for name, value in {"device_path": device, "device_uuid": volume.uuid, "enable": "1"}.items():
            (namespace / name).write_text(value)
        (self._port / "subsystems" / volume.target.nqn).symlink_to(subsystem)
        return volume

    def volumes(self, name: str, count: int, size: int) -> list[Exported]:
        """``count`` formatted volumes."""
        names = [f"{name}-{number:03}" for number in range(count)]
        return [
            self.export(volume_id, device, size)
            for volume_id, device in zip(names, self.formatted(names, size), strict=True)
        ]


class Crowd:
    """Sessions beside those that are measured: of this driver's prefix, healthy, and with nobody's record."""

    def __init__(self, portal: Portal, options: str) -> None:
        """``options``: of the host, as /dev/nvme-fabrics takes them."""
        self._portal = portal
        self._options = options
        self._device = portal.blank("crowd", MIB)
        self.volumes: list[Exported] = []

    def grow(self, size: int) -> None:
        """Connect until there are ``size`` of them (about 0.1 s each)."""
        while len(self.volumes) < size:
            volume = self._portal.export(f"crowd-{len(self.volumes):03}", self._device, MIB)
            # Keep-alives at the default pace would take a good part of an emulated CPU.
            connect(volume.target, f"{self._options},nr_io_queues=1,keep_alive_tmo=120")
            self.volumes.append(volume)


def fabrics_options(target: NvmeTarget, options: str) -> str:
    """The words for /dev/nvme-fabrics (drivers/nvme/host/fabrics.c)."""
    return f"transport=tcp,traddr={ADDRESS},trsvcid={TRSVCID},nqn={target.nqn},{options}"


def connect(target: NvmeTarget, options: str) -> None:
    """Connect by a write to /dev/nvme-fabrics."""
    with Path("/dev/nvme-fabrics").open("r+b", buffering=0) as stream:
        stream.write(fabrics_options(target, options).encode())
