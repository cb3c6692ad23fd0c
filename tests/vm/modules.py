"""Which kernel modules a guest gets: the ones asked for and all that they depend on, unpacked."""

import lzma
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

# By these the guest reaches its devices and its root directory.
BOOT_MODULES = ("virtio_pci", "virtio_rng", "virtio_console", "9pnet_virtio", "9p", "overlay")

# What the tests load themselves, and what those modules ask the kernel for by an alias (checksums).
TEST_MODULES = (
    "blake2b_generic",
    "brd",
    "btrfs",
    "configfs",
    "crc32c_generic",
    "crc32c_intel",
    "dm_mod",
    "dummy",
    "ext4",
    "loop",
    "nvme_core",
    "nvme_fabrics",
    "nvme_tcp",
    "nvmet",
    "nvmet_tcp",
    "sha256_generic",
    "xfs",
    "xxhash_generic",
)

# The kernel's own lists of what is built in, without which modprobe complains.
_BUILTIN_LISTS = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
_DEPMOD_SECONDS = 120.0


def copy_modules(source: Path, target: Path, names: Iterable[str]) -> None:
    """Fill ``target`` (a root directory) from the unpacked kernel package below ``source``.

    Only lib/modules/RELEASE is read and written. LookupError names a module that the kernel does not have;
    one that is built in is there already.
    """
    (tree,) = (source / "lib/modules").iterdir()
    _depmod(source, tree.name)
    copy = target / "lib/modules" / tree.name
    copy.mkdir(parents=True)
    for path in sorted(_with_dependencies(tree, names)):
        destination = copy / path.removesuffix(".xz")
        destination.parent.mkdir(parents=True, exist_ok=True)
        content = (tree / path).read_bytes()
        destination.write_bytes(lzma.decompress(content) if path.endswith(".xz") else content)
    for name in _BUILTIN_LISTS:
        shutil.copy(tree / name, copy / name)
    _depmod(target, tree.name)


def _depmod(root: Path, release: str) -> None:
    subprocess.run(["depmod", "-b", str(root), release], check=True, timeout=_DEPMOD_SECONDS)


def _with_dependencies(tree: Path, names: Iterable[str]) -> set[str]:
    """The paths below ``tree`` of the modules and of all that they need (modules.dep(5))."""
    needs: dict[str, list[str]] = {}
    for line in (tree / "modules.dep").read_text().splitlines():
        path, _, needed = line.partition(":")
        needs[path] = needed.split()
    paths = {_module_name(path): path for path in needs}
    builtin = {_module_name(path) for path in (tree / "modules.builtin").read_text().splitlines()}
    return {path for name in names if name not in builtin for path in _closure(name, paths, needs)}


def _closure(name: str, paths: dict[str, str], needs: dict[str, list[str]]) -> Iterator[str]:
    if name not in paths:
        raise LookupError(f"this kernel has no module {name}")
    yield paths[name]
    # depmod lists the dependencies of dependencies too.
    yield from needs[paths[name]]


def _module_name(path: str) -> str:
    """``kernel/fs/btrfs/btrfs.ko.xz`` → ``btrfs``; the kernel takes - and _ for the same."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")
