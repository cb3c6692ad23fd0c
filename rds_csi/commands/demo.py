"""``rds-csi demo``: the whole life of a volume over the real socket, on a temporary directory."""

import hashlib
import os
import secrets
import shutil
import sys
import tempfile

from grpclib.client import Channel
from grpclib.exceptions import GRPCError

from rds_csi.commands.actors import NODE, Actors
from rds_csi.commands.playing import DemoFailed, in_words, serving, step, take_back
from rds_csi.csi.v1 import (
    ControllerStub,
    NodeStub,
    VolumeContentSource,
    VolumeContentSourceSnapshotSource,
    VolumeContentSourceVolumeSource,
)
from rds_csi.model.sizes import MIB
from rds_csi.settings import Settings, load_settings

# xfs makes no filesystem below 300 MiB.
SIZE = 320 * MIB
GROWN = 512 * MIB
PAYLOAD = 8 * MIB

# linux/capability.h; ext4 asks for it when it grows online (EXT4_IOC_RESIZE_FS).
CAP_SYS_RESOURCE = 24

HINT = """\
What next?
  rds-csi all --help       serve controller and node on this machine
  rds-csi status           what is staged here, and whether it is well
  rds-csi controller --array 'nvmet://ADDRESS:4420?backing=/DIR'   export volumes over real NVMe/TCP"""

WITHOUT_ROOT = """\
Without root only the controller's half was played, with devices that are made up.
As root the demo also attaches a loop device, makes a filesystem, mounts it, writes, grows it online, and checks
that the snapshot and the clone hold the same bytes: sudo rds-csi demo"""


async def play() -> int:
    """Play the demo; the exit status is 0 when every step and every check went well."""
    as_root = os.geteuid() == 0
    directory = tempfile.mkdtemp(prefix="rds-csi-demo-")
    for name in ("array", "state", "staging", "pods"):
        os.mkdir(os.path.join(directory, name))
    fs_type = _filesystem()
    print(f"The life of a volume on this machine: image files in {directory}/array, ", end="")
    print(f"loop devices, {fs_type}.\n" if as_root else "no devices (not root).\n")
    problems: list[str] = []
    try:
        async with serving(_settings(directory, as_root)), Channel(path=f"{directory}/csi.sock") as channel:
            actors = Actors(directory, fs_type, ControllerStub(channel), NodeStub(channel))
            try:
                await (_whole_life(actors) if as_root else _controllers_half(actors))
            except (GRPCError, DemoFailed, OSError) as error:
                problems.append(in_words(error))
            finally:
                await take_back(actors, problems, node=as_root)
    finally:
        # On every way out, Ctrl-C too.
        left = _remove(directory)
        if left:
            problems.append(f"left behind, which is a fault of the driver: {left}")
        if problems:
            print("", *problems, sep="\n", file=sys.stderr)
    if problems:
        return 1
    print(f"\nNothing is left behind.\n{'' if as_root else WITHOUT_ROOT + chr(10)}\n{HINT}")
    return 0


def _settings(directory: str, as_root: bool) -> Settings:
    return load_settings(
        {
            "endpoint": f"unix://{directory}/csi.sock",
            "array": f"local://{directory}/array",
            "connector": "loop" if as_root else "memory",
            "node_id": NODE,
            "state_dir": f"{directory}/state",
        }
    )


async def _whole_life(actors: Actors) -> None:
    with step("create a volume") as tell:
        volume = await actors.create("demo", SIZE)
        tell(f"{volume.volume_id}, {volume.capacity_bytes // MIB} MiB thin")
    with step("publish it to this node"):
        publish_context = await actors.attach(volume)
    with step(f"stage: device, mkfs.{actors.fs_type}, mount") as tell:
        await actors.stage(volume, publish_context)
        tell(_mount_at(actors.staging(volume.volume_id)))
    with step("mount it for a pod") as tell:
        path = await actors.publish(volume, publish_context)
        tell(_mount_at(path))
    with step("write with fsync") as tell:
        digest = _write(os.path.join(path, "data"))
        tell(f"{PAYLOAD // MIB} MiB, sha256 {digest[:12]}…")
    with step("take a snapshot") as tell:
        snapshot_id = await actors.snapshot(volume, "demo-snapshot")
        tell(snapshot_id)
    with step("grow it while it is mounted") as tell:
        before = _size(path)
        await actors.expand(volume, GROWN)
        await actors.expand_filesystem(volume, GROWN)
        tell(f"statvfs {before // MIB} → {_size(path) // MIB} MiB")
        if _size(path) <= before:
            raise DemoFailed("the filesystem did not grow")
    with step("clone it and mount the clone") as tell:
        source = VolumeContentSource(volume=VolumeContentSourceVolumeSource(volume_id=volume.volume_id))
        clone = await actors.mount(await actors.create("demo-clone", GROWN, source))
        tell(_mount_at(clone))
    with step("restore the snapshot and mount it") as tell:
        source = VolumeContentSource(snapshot=VolumeContentSourceSnapshotSource(snapshot_id=snapshot_id))
        restored = await actors.mount(await actors.create("demo-restored", SIZE, source))
        tell(_mount_at(restored))
    with step("check the data of all three") as tell:
        for copy in (path, clone, restored):
            if _digest(os.path.join(copy, "data")) != digest:
                raise DemoFailed(f"{copy} does not hold what was written")
        tell("the same bytes three times")
    with step("unpublish, unstage, detach"):
        for volume_id in actors.volumes:
            await actors.detach(volume_id, node=True)
    with step("delete volumes and snapshot"):
        await actors.delete()


async def _controllers_half(actors: Actors) -> None:
    with step("create a volume") as tell:
        volume = await actors.create("demo", SIZE)
        tell(f"{volume.volume_id}, {volume.capacity_bytes // MIB} MiB thin")
    with step("publish it to this node"):
        await actors.attach(volume)
    with step("take a snapshot") as tell:
        tell(await actors.snapshot(volume, "demo-snapshot"))
    with step("grow it") as tell:
        tell(f"{await actors.expand(volume, GROWN) // MIB} MiB")
    with step("clone it"):
        source = VolumeContentSource(volume=VolumeContentSourceVolumeSource(volume_id=volume.volume_id))
        await actors.create("demo-clone", GROWN, source)
    with step("detach"):
        await actors.detach(volume.volume_id, node=False)
    with step("delete volumes and snapshot"):
        await actors.delete()


def _filesystem() -> str:
    """ext4, unless this process may not grow it online; then xfs, when its tools are here."""
    with open("/proc/self/status", encoding="ascii") as stream:
        effective = next(int(line.split()[1], 16) for line in stream if line.startswith("CapEff:"))
    if effective & 1 << CAP_SYS_RESOURCE or shutil.which("mkfs.xfs", path="/usr/sbin:/sbin") is None:
        return "ext4"
    return "xfs"


def _write(path: str) -> str:
    data = secrets.token_bytes(PAYLOAD)
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return hashlib.sha256(data).hexdigest()


def _digest(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _size(path: str) -> int:
    stat = os.statvfs(path)
    return stat.f_blocks * stat.f_frsize


def _mounts() -> list[list[str]]:
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as stream:
        return [line.split() for line in stream]


def _mount_at(path: str) -> str:
    return next((f"{fields[0]} at {path}" for fields in _mounts() if fields[1] == path), "not mounted")


def _remove(directory: str) -> str:
    """Remove the temporary directory; what is still mounted below it, or held by a loop device, is told."""
    mounted = [fields[1] for fields in _mounts() if fields[1].startswith(f"{directory}/")]
    if mounted:
        # Removing a tree with a mount in it would remove the mounted data.
        return ", ".join(mounted)
    images = os.path.join(directory, "array", "volumes")
    left = os.listdir(images) if os.path.isdir(images) else []
    shutil.rmtree(directory)
    return ", ".join(left)
