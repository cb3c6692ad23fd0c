"""A loop connector over a made-up machine, whose sysfs changes as the kernel would change it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from rds_csi.connectors.loop import LoopConnector
from rds_csi.connectors.protocol import ConnectorOptions
from rds_csi.loopdev.devices import LoopDevices
from rds_csi.loopdev.ioctls import Inode, LoopIoctls
from rds_csi.model.devices import DeviceNumber
from rds_csi.model.host import HostPaths
from rds_csi.model.targets import FileTarget
from rds_csi.workers import Workers
from tests.support.block_nodes import FakeBlockNodes
from tests.support.clock import FakeClock
from tests.support.runner import ScriptedRunner

SIZE = 8 << 20
LOOP_MAJOR = 7


class MadeUpKernel(LoopIoctls):
    """Binds and unbinds loop devices of a made-up tree, and remembers what it was asked to do.

    ``files`` is which file is behind a node for writing. ``open_nodes`` are held open by somebody: they go when they
    are closed. ``at_configure`` is called when a device was bound; what ``refusal`` gives is raised instead of binding.
    """

    def __init__(self, bench: "LoopBench") -> None:
        self._bench = bench
        self.calls: list[tuple[str, str]] = []
        self.files: dict[str, Inode] = {}
        self.open_nodes: set[str] = set()
        self.direct_io: dict[str, bool] = {}
        self.at_configure: Callable[[], object] = lambda: None
        self.refusal: Callable[[], OSError | None] = lambda: None

    def get_free(self, control: str) -> int:
        number = next(number for number in range(3, 4096) if not self._bench.is_bound(f"loop{number}"))
        self._bench.write(f"dev/loop{number}", "")
        return number

    def configure(self, node: str, image: int, path: str, *, direct_io: bool) -> None:
        refusal = self.refusal()
        self._remember("configure", node)
        if refusal is not None:
            raise refusal
        self._bench.bind(os.path.basename(node), file=Path(os.readlink(f"/proc/self/fd/{image}")))
        self.direct_io[node] = direct_io
        self.at_configure()

    def inode(self, node: str) -> Inode | None:
        return self.files.get(node)

    def set_capacity(self, node: str) -> None:
        self._remember("set_capacity", node)
        directory = self._bench.sysfs(os.path.basename(node))
        file = (directory / "loop/backing_file").read_text().removesuffix("\n")
        (directory / "size").write_text(f"{os.stat(file).st_size // 512}\n")

    def clear(self, node: str) -> None:
        self._remember("clear", node)
        name = os.path.basename(node)
        if node in self.open_nodes:
            (self._bench.sysfs(name) / "loop/autoclear").write_text("1\n")
        elif self._bench.is_bound(name):
            self._bench.release(name)

    def flush(self, node: str) -> None:
        self._remember("flush", node)

    def _remember(self, what: str, node: str) -> None:
        self.calls.append((what, os.path.basename(node)))


class LoopBench:
    """A connector over a made-up machine with loop devices."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.host = HostPaths(str(root / "host"))
        self.clock = FakeClock()
        self.nodes = FakeBlockNodes()
        self.kernel = MadeUpKernel(self)
        for directory in ("sys/block", "sys/dev/block", "dev", "proc/self"):
            (root / "host" / directory).mkdir(parents=True)
        self.image = root / "image"
        self.make_image()
        self.target = FileTarget(str(self.image))
        options = ConnectorOptions(ScriptedRunner(), Workers(), self.host, str(root / "state"))
        self.connector = LoopConnector(options, ioctls=self.kernel, nodes=self.nodes, clock=self.clock.clock)
        self.pauses: list[float] = []
        self.loops = LoopDevices(self.host, self.kernel, self.pauses.append)

    def make_image(self) -> None:
        with self.image.open("wb") as stream:
            stream.truncate(SIZE)

    def write(self, path: str, text: str) -> None:
        """Write a file of the host."""
        Path(self.host.root, path).write_text(text)

    def sysfs(self, name: str) -> Path:
        """The directory of a device in sysfs."""
        return Path(self.host.sys, "block", name)

    def is_bound(self, name: str) -> bool:
        """Whether a loop device has a file."""
        return (self.sysfs(name) / "loop").exists()

    def bind(
        self,
        name: str,
        *,
        file: Path | None = None,
        text: str = "",
        offset: int = 0,
        autoclear: int = 0,
        read_only: bool = False,
    ) -> Path:
        """Bind a loop device as the kernel shows it, ``read_only`` as by ``losetup -r``; its directory in sysfs."""
        minor = int(name.removeprefix("loop"))
        device = self.sysfs(name)
        (device / "loop").mkdir(parents=True)
        (device / "holders").mkdir(exist_ok=True)
        bound = file or self.image
        status = bound.stat()
        for attribute, value in {
            "dev": f"{LOOP_MAJOR}:{minor}",
            "size": status.st_size // 512,
            "ro": int(read_only),
            "loop/backing_file": text or str(bound),
            "loop/offset": offset,
            "loop/sizelimit": 0,
            "loop/autoclear": autoclear,
        }.items():
            (device / attribute).write_text(f"{value}\n")
        link = Path(self.host.sys, "dev/block", f"{LOOP_MAJOR}:{minor}")
        if not link.is_symlink():
            link.symlink_to(device)
        node = f"{self.host.dev}/{name}"
        if not read_only:
            self.kernel.files[node] = Inode(status.st_dev, status.st_ino)
        self.nodes.numbers[node] = DeviceNumber(LOOP_MAJOR, minor)
        return device

    def release(self, name: str) -> None:
        """The kernel lets go of a loop device."""
        shutil.rmtree(self.sysfs(name) / "loop")
        self.kernel.files.pop(f"{self.host.dev}/{name}", None)
