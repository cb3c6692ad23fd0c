"""Who uses a block device: asked of the kernel before a device is taken away (lessons I10: never of lsof)."""

import os
from typing import TextIO

from rds_csi.blockdev.mounts import parse_mounts
from rds_csi.blockdev.nodes import BlockNodes
from rds_csi.model.devices import DeviceNumber
from rds_csi.model.host import HostPaths
from rds_csi.model.oserrors import GONE


def why_in_use(host: HostPaths, name: str, path: str, nodes: BlockNodes) -> str:
    """What uses the block device ``name`` (its partitions included) with its node at ``path``; "" when free.

    Looks at holders, mountinfo and swaps for the words, and at an exclusive open for what they do not show:
    other mount namespaces, and btrfs, whose mounts have a made-up number. Blocking: call it in a worker;
    OSError when it cannot be looked at, which never means "free".
    """
    directories = _with_partitions(f"{host.sys}/block/{name}")
    holders = sorted(holder for directory in directories for holder in list_names(f"{directory}/holders"))
    if holders:
        return f"it is held by {', '.join(holders)}"
    mounted = _mount_point(host, {number for directory in directories if (number := _number(directory))}, path)
    if mounted:
        return f"it is mounted at {mounted}"
    if _is_swap(host, path):
        return "it is used as swap"
    if nodes.is_claimed(path):
        return "it is mounted in another mount namespace, or claimed by another part of the kernel"
    return ""


def _with_partitions(directory: str) -> list[str]:
    parts = [f"{directory}/{name}" for name in list_names(directory)]
    return [directory, *(part for part in parts if read_text(f"{part}/partition"))]


def _number(directory: str) -> DeviceNumber | None:
    text = read_text(f"{directory}/dev").strip()
    return DeviceNumber.parse(text) if text else None


def _mount_point(host: HostPaths, numbers: set[DeviceNumber], path: str) -> str:
    wanted = {str(number) for number in numbers}
    # The source is the path under which the mounting process saw the node: without the host root.
    sources = {path, "/dev/" + os.path.basename(path)}
    for mount in parse_mounts(read_text(f"{host.proc}/self/mountinfo")):
        if mount.number in wanted or mount.source in sources:
            return mount.path
    return ""


def _is_swap(host: HostPaths, path: str) -> bool:
    used = {line.split(" ")[0] for line in read_text(f"{host.proc}/swaps").split("\n")[1:]}
    return not used.isdisjoint({path, "/dev/" + os.path.basename(path)})


def list_names(directory: str) -> list[str]:
    """What is in ``directory``; nothing when it is gone."""
    try:
        return os.listdir(directory)
    except OSError as error:
        if error.errno in GONE:
            return []
        raise


def open_text(path: str) -> TextIO:
    """A file of sysfs or procfs, open for reading: only a newline ends a line, and paths keep their bytes. OSError."""
    return open(path, encoding="utf-8", errors="surrogateescape", newline="\n")


def read_text(path: str) -> str:
    """The file's content; "" when it is gone."""
    try:
        with open_text(path) as stream:
            return stream.read()
    except OSError as error:
        if error.errno in GONE:
            return ""
        raise
