"""Made-up sysfs trees of NVMe sessions: from a captured dump, or built piece by piece."""

import re
import shutil
from pathlib import Path

from rds_csi.model.devices import DeviceNumber
from rds_csi.model.host import HostPaths
from tests.support.block_nodes import FakeBlockNodes

_LINK = re.compile(r"^l\S+ .*? (?P<name>\S+) -> (?P<target>\S+)$")
_DIRECTORY = re.compile(r"^d\S+ .*? (?P<name>\S+)$")
_NODE = re.compile(r"^[bc]\S+ .*? (?P<major>\d+), +(?P<minor>\d+) .*? (?P<path>/dev/\S+)$")
_ATTRIBUTE = re.compile(r"^(?P<path>/sys/[^ :]+[^ :/])(?: = |:)(?P<value>.*)$")

HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555"
HOSTID = "11111111-2222-3333-4444-555555555555"
NVME_MAJOR = 259


def lay_out(dump: str, root: Path) -> dict[str, DeviceNumber]:
    """Make the tree of a captured ``*.sysfs`` dump below ``root``; the block nodes that /dev had then.

    Links are links as the kernel makes them, dangling ones included: directories exist only where a class
    directory or a listing says that they do.
    """
    lines = dump.splitlines()
    _lay_out_classes(lines, root)
    _lay_out_sections(lines, root)
    for line in lines:
        attribute = _ATTRIBUTE.match(line)
        if attribute is not None:
            path = root / attribute["path"].lstrip("/")
            if path.parent.is_dir():
                path.write_text(attribute["value"] + "\n")
    return _lay_out_numbers(lines, root)


def _lay_out_classes(lines: list[str], root: Path) -> None:
    """The first section: the class directories, and /sys/block, whose links have one ``..`` less."""
    directory = root / "sys"
    for line in lines[1:]:
        if line.startswith("###"):
            return
        if line.startswith("/sys/") and line.endswith(":"):
            directory = root / line.rstrip(":").strip("/")
            directory.mkdir(parents=True, exist_ok=True)
        link = _LINK.match(line)
        if link is not None:
            place = directory if link["target"].startswith("../../") else root / "sys" / "block"
            place.mkdir(parents=True, exist_ok=True)
            (place / link["target"]).resolve().mkdir(parents=True, exist_ok=True)
            (place / link["name"]).symlink_to(link["target"])


def _lay_out_sections(lines: list[str], root: Path) -> None:
    directory: Path | None = None
    for line in lines:
        if line.startswith("### /sys/"):
            directory = root / line.removeprefix("### ").strip("/")
            continue
        if directory is None or not directory.is_dir():
            continue
        link, inner = _LINK.match(line), _DIRECTORY.match(line)
        if link is not None and not (directory / link["name"]).is_symlink():
            (directory / link["name"]).symlink_to(link["target"])
        elif inner is not None:
            (directory / inner["name"]).mkdir(exist_ok=True)


def _lay_out_numbers(lines: list[str], root: Path) -> dict[str, DeviceNumber]:
    numbers = root / "sys" / "dev" / "block"
    numbers.mkdir(parents=True, exist_ok=True)
    for device in (root / "sys" / "block").glob("*/dev"):
        number = device.read_text().strip()
        if not (numbers / number).is_symlink():
            (numbers / number).symlink_to(device.parent.resolve())
    return {
        node["path"]: DeviceNumber(int(node["major"]), int(node["minor"]))
        for line in lines
        if line.startswith("b") and (node := _NODE.match(line))
    }


class NvmeTree:
    """A host with NVMe sessions, below a temporary directory; native multipath unless told otherwise."""

    def __init__(self, root: Path, *, multipath: bool = True) -> None:
        self.host = HostPaths(str(root))
        self.nodes = FakeBlockNodes()
        self._root = root
        self._multipath = multipath
        self._next = 0
        for directory in (
            "sys/class/nvme",
            "sys/class/nvme-subsystem",
            "sys/block",
            "sys/dev/block",
            "dev",
            "etc/nvme",
        ):
            (root / directory).mkdir(parents=True, exist_ok=True)
        (root / "proc" / "self").mkdir(parents=True)
        (root / "proc" / "self" / "mountinfo").touch()
        (root / "proc" / "swaps").write_text("Filename Type Size Used Priority\n")
        (root / "dev" / "nvme-fabrics").touch()
        parameters = root / "sys" / "module" / "nvme_core" / "parameters"
        parameters.mkdir(parents=True)
        (parameters / "multipath").write_text("Y\n" if multipath else "N\n")
        (root / "etc/nvme/hostnqn").write_text(HOSTNQN + "\n")
        (root / "etc/nvme/hostid").write_text(HOSTID + "\n")

    def path(self, *parts: str) -> Path:
        """A path below the root."""
        return self._root.joinpath(*parts)

    def add_session(self, nqn: str, *, state: str = "live", traddr: str = "192.0.2.1", trsvcid: str = "4420") -> int:
        """A subsystem with one controller; the number of both. A second path is added by ``add_path``."""
        number = self._next
        subsystem = self._root / f"sys/devices/virtual/nvme-subsystem/nvme-subsys{number}"
        subsystem.mkdir(parents=True)
        (subsystem / "subsysnqn").write_text(nqn + "\n")
        (self._root / f"sys/class/nvme-subsystem/nvme-subsys{number}").symlink_to(subsystem)
        self.add_path(number, nqn, state=state, traddr=traddr, trsvcid=trsvcid)
        return number

    def add_path(
        self, subsystem: int, nqn: str, *, state: str = "live", traddr: str = "192.0.2.1", trsvcid: str = "4420"
    ) -> int:
        """One more controller of a subsystem; its number."""
        number, self._next = self._next, self._next + 1
        controller = self._root / f"sys/devices/virtual/nvme-fabrics/ctl/nvme{number}"
        controller.mkdir(parents=True)
        source = f",src_addr={traddr}" if state == "live" else ""
        attributes = {
            "state": state,
            "transport": "tcp",
            "address": f"traddr={traddr},trsvcid={trsvcid}{source}",
            "subsysnqn": nqn,
            "hostnqn": HOSTNQN,
            "hostid": HOSTID,
            "ctrl_loss_tmo": "off",
            "reconnect_delay": "5",
            "fast_io_fail_tmo": "off",
            "kato": "5",
            "cntrltype": "io",
            "rescan_controller": "",
        }
        for name, value in attributes.items():
            (controller / name).write_text(value + "\n")
        (self._root / f"sys/class/nvme/nvme{number}").symlink_to(controller)
        link = self._root / f"sys/devices/virtual/nvme-subsystem/nvme-subsys{subsystem}/nvme{number}"
        link.symlink_to(f"../../nvme-fabrics/ctl/nvme{number}")
        return number

    def add_namespace(self, subsystem: int, *, nsid: int = 1, uuid: str = "", size: int = 1 << 30) -> Path:
        """The block device of a namespace and its node; the directory of the device."""
        name = f"nvme{subsystem}n{nsid}"
        parent = f"nvme-subsystem/nvme-subsys{subsystem}" if self._multipath else f"nvme-fabrics/ctl/nvme{subsystem}"
        device = self._root / "sys/devices/virtual" / parent / name
        number = DeviceNumber(NVME_MAJOR, 16 * subsystem + nsid)
        (device / "holders").mkdir(parents=True)
        for attribute, value in {"nsid": nsid, "dev": number, "size": size // 512, "hidden": 0}.items():
            (device / attribute).write_text(f"{value}\n")
        if uuid:
            (device / "uuid").write_text(uuid + "\n")
        (self._root / "sys/block" / name).symlink_to(device)
        (self._root / "sys/dev/block" / str(number)).symlink_to(device)
        self.nodes.numbers[f"{self.host.dev}/{name}"] = number
        return device

    def set_state(self, controller: int, state: str) -> None:
        """Change what a controller shows."""
        self.path(f"sys/class/nvme/nvme{controller}/state").write_text(state + "\n")

    def remove_session(self, subsystem: int) -> None:
        """All of a subsystem goes away, as after a disconnect."""
        directory = self._root / f"sys/devices/virtual/nvme-subsystem/nvme-subsys{subsystem}"
        for controller in [link.resolve() for link in directory.iterdir() if link.is_symlink()]:
            (self._root / "sys/class/nvme" / controller.name).unlink()
            shutil.rmtree(controller)
        (self._root / f"sys/class/nvme-subsystem/nvme-subsys{subsystem}").unlink()
        shutil.rmtree(directory)
