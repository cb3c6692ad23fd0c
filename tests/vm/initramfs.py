"""The guest's first root directory: busybox, a few modules and ``init``, as an uncompressed cpio archive."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from tests.vm.modules import BOOT_MODULES, TEST_MODULES, copy_modules

_INIT = Path(__file__).with_name("init")
_DIRECTORIES = ("bin", "dev", "proc", "sys", "ro", "rw", "newroot")


def build_initramfs(kernel_tree: Path, work: Path) -> bytes:
    """The archive for the kernel package unpacked at ``kernel_tree``; ``work`` is an empty directory."""
    for name in _DIRECTORIES:
        (work / name).mkdir()
    busybox = shutil.which("busybox")
    if busybox is None:
        raise FileNotFoundError("busybox is not installed; the package busybox-static has it")
    _install(Path(busybox), work / "bin/busybox")
    _install(_INIT, work / "init")
    copy_modules(kernel_tree, work, (*BOOT_MODULES, *TEST_MODULES))
    return b"".join(_archive(work))


def _install(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
    target.chmod(0o755)


def _archive(root: Path) -> Iterator[bytes]:
    """Everything below ``root`` in the "newc" format (kernel Documentation, early-userspace/buffer-format)."""
    for number, path in enumerate(sorted(root.rglob("*")), start=1):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path).encode()
        else:
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        yield _entry(number, status.st_mode, path.relative_to(root).as_posix(), content)
    yield _entry(0, 0, "TRAILER!!!", b"")


def _entry(number: int, mode: int, name: str, content: bytes) -> bytes:
    encoded = name.encode() + b"\x00"
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return _padded(header) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\x00" * (-len(data) % 4)
