"""What others keep on the device: disks, files and subvolumes that nobody but their owner may touch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rds_csi.errors import ConfigurationError
from rds_csi.model.sizes import MIB
from rds_csi.simulator.device_options import PoolOptions
from rds_csi.simulator.menus.btrfs import SubvolumeMenu, btrfs_pools
from rds_csi.simulator.menus.disk import DiskMenu
from rds_csi.simulator.pools import Entry
from rds_csi.simulator.storage import Storage

# Virtual machines of another tenant of the same server: their NQNs share the vendor's prefix with ours.
_MACHINES = ("nixos-builder", "nixos-cache")
_SWAP = "swap"
_SIZE = 16 * MIB
# Bytes of the first pool, and of the first btrfs pool, that are enough for all of it.
_ROOM = 64 * MIB
_WITHOUT = "or leave the tenants out: --tenants no."


@dataclass(frozen=True, slots=True)
class Tenants:
    """The property of others: ids of disks, names of files (as ``/file`` has them) and of subvolumes."""

    disk_ids: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    subvolumes: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()

    def digest(self) -> str:
        """One hash over the bytes of all the files: the same as before when nobody has touched them.

        Blocks while it reads; a file that is gone counts as such.
        """
        whole = hashlib.sha256()
        for path in self.paths:
            whole.update(hashlib.sha256(path.read_bytes()).digest() if path.exists() else b"gone")
        return whole.hexdigest()


def check_room(pools: Sequence[PoolOptions]) -> None:
    """ConfigurationError when pools have no room for the tenants, or names of theirs."""
    first_btrfs = [pool for pool in pools if pool.filesystem == "btrfs"][:1]
    for pool in (*pools[:1], *first_btrfs):
        if pool.size - pool.reserved < _ROOM:
            raise ConfigurationError(
                f"the pool {pool.slot} has no room for what other tenants keep there",
                remedy=f"Give it 128M at least, {_WITHOUT}",
            )
    for pool in pools:
        if pool.slot in (*_MACHINES, _SWAP):
            raise ConfigurationError(
                f"a disk of another tenant is called {pool.slot}", remedy=f"Give the pool another name, {_WITHOUT}"
            )


def furnish(storage: Storage, disks: DiskMenu, subvolumes: SubvolumeMenu, suffix: str = "") -> Tenants:
    """Move the other tenants in: on the first pool, and on the first btrfs pool. Their NQNs end with ``suffix``."""
    if not storage.pools:
        return Tenants()
    top = next(iter(storage.pools))
    files = [_filled(storage, f"{top}/{directory}", name) for directory, name in _loose_files(storage, top)]
    names, ids = [], []
    if "file" in disks.choices("add", "type"):
        storage.make_directory(f"{top}/nixos")
        for machine in _MACHINES:
            path = f"{top}/nixos/{machine}.img"
            ids.append(_machine(disks, machine, path, suffix))
            files.append(_fill(storage, path))
        ids.append(_swap(disks, f"{top}/nixos/swap.img"))
        files.append(_fill(storage, f"{top}/nixos/swap.img"))
        for label, pool in list(btrfs_pools(storage).items())[:1]:
            subvolumes.make(label, "vm-images")
            names.append("vm-images")
            files.append(_filled(storage, f"{pool.mount_point}/vm-images", "template.qcow2"))
    return Tenants(
        disk_ids=tuple(ids),
        files=tuple(entry.path for entry in files),
        subvolumes=tuple(names),
        paths=tuple(entry.real_path for entry in files),
    )


def _loose_files(storage: Storage, top: str) -> list[tuple[str, str]]:
    for directory in ("backup", "isos"):
        storage.make_directory(f"{top}/{directory}")
    return [("backup", "rds-20251101.backup"), ("backup", "pvc-notes.txt"), ("isos", "install.iso")]


def _filled(storage: Storage, directory: str, name: str) -> Entry:
    storage.make_file(f"{directory}/{name}", MIB)
    return _fill(storage, f"{directory}/{name}")


def _fill(storage: Storage, path: str) -> Entry:
    """Bytes that are not zero at the head and the tail of a file, different for each."""
    entry = storage.find(path)
    if entry is None:
        raise FileNotFoundError(path)
    block = hashlib.sha256(path.encode()).digest() * 128
    with entry.real_path.open("r+b") as real:
        real.write(block)
        real.seek(entry.size - len(block))
        real.write(block)
    return entry


def _machine(disks: DiskMenu, name: str, path: str, suffix: str) -> str:
    values = {
        "type": "file",
        "slot": name,
        "file-path": path,
        "file-size": str(_SIZE),
        "mount-filesystem": "no",
        "nvme-tcp-export": "yes",
        "nvme-tcp-server-port": "4420",
    }
    if "nvme-tcp-server-nqn" in (disks.arguments("add") or {}):
        values["nvme-tcp-server-nqn"] = f"nqn.2000-02.com.mikrotik:{name}{suffix}"
    return disks.attach(values).id


def _swap(disks: DiskMenu, path: str) -> str:
    comment = "swap of the containers, do not remove"
    values = {"type": "file", "slot": _SWAP, "file-path": path, "file-size": str(_SIZE), "comment": comment}
    return disks.attach(values).id
