"""Mounting and unmounting: which program is started, and what its failure means. Nothing is really mounted."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from rds_csi.errors import Aborted, DeadlineExceeded, DriverError, FailedPrecondition, InvalidArgument, Unavailable
from rds_csi.filesystem.host import HostFilesystems
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import GIB
from rds_csi.process import Completed
from rds_csi.workers import Workers
from tests.support.runner import ScriptedRunner

DEVICE = Device("/dev/nvme0n1", DeviceNumber(259, 1), GIB)
DAMAGED = "mount: /s: cannot mount; probably corrupted filesystem on /dev/nvme0n1.\n       dmesg(1) may have more.\n"


class Host:
    """A made-up /proc with a mount table, and a runner that mounts nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = str(root / "kubelet" / "staging")
        self.runner = ScriptedRunner()
        self.filesystems = HostFilesystems(self.runner, Workers(), HostPaths(str(root)))
        (root / "proc" / "self").mkdir(parents=True)
        self.show([])

    def show(self, paths: list[str], *, tail: str = "ext4 /dev/nvme0n1 rw", number: str = "259:1") -> None:
        lines = [f"{index} 1 {number} / {path} rw - {tail}\n" for index, path in enumerate(paths)]
        (self.root / "proc" / "self" / "mountinfo").write_text("".join(lines))


class StuckRunner(ScriptedRunner):
    """Every program hangs until its caller is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.ended = asyncio.Event(), False

    async def run(
        self, *argv: str, timeout: float, input: bytes = b"", env: Mapping[str, str] | None = None
    ) -> Completed:
        self.started.set()
        try:
            await asyncio.Event().wait()
            raise AssertionError("nobody ends it")
        finally:
            self.ended = True


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def test_a_volume_is_mounted_with_one_program(host: Host) -> None:
    host.runner.on("mount")
    await host.filesystems.mount(DEVICE, host.path, "xfs", ["noatime"])
    assert host.runner.calls == [
        ("mount", "-i", "-n", "-w", "-t", "xfs", "-o", "noatime,nouuid", "/dev/nvme0n1", host.path)
    ]


async def test_a_read_only_mount_does_not_ask_for_writing(host: Host) -> None:
    host.runner.on("mount")
    await host.filesystems.mount(DEVICE, host.path, "ext4", ["ro", "noload"])
    assert "-w" not in host.runner.calls[0]


@pytest.mark.parametrize(
    ("stderr", "error", "text"),
    [
        ("mount: /s: /dev/nvme0n1 already mounted or mount point busy.", Aborted, "may still be running"),
        ("mount: /s: can't read superblock on /dev/nvme0n1.", Unavailable, "connection to the array"),
        ("mount: /s: unknown filesystem type 'xfs'.", FailedPrecondition, "Load the kernel module xfs"),
        ("mount: /s: /dev/nvme0n1 is write-protected but …", FailedPrecondition, "read-only"),
        (DAMAGED, FailedPrecondition, "xfs_repair /dev/nvme0n1"),
        ("", FailedPrecondition, "exit status 32"),
    ],
)
async def test_a_failed_mount_says_what_to_do(host: Host, stderr: str, error: type[DriverError], text: str) -> None:
    host.runner.on("mount", returncode=32, stderr=stderr)
    with pytest.raises(error) as caught:
        await host.filesystems.mount(DEVICE, host.path, "xfs", ())
    assert text in str(caught.value)
    assert host.runner.called("xfs_repair") == 0


async def test_a_btrfs_clone_beside_its_origin_is_explained(host: Host) -> None:
    host.runner.on("mount", returncode=32, stderr="mount: /s: mount(2) system call failed: File exists.")
    with pytest.raises(FailedPrecondition, match="use them on different nodes"):
        await host.filesystems.mount(DEVICE, host.path, "btrfs", ())


async def test_a_directory_made_for_a_mount_that_failed_is_taken_back(host: Host) -> None:
    host.runner.on("mount", returncode=32, stderr="mount: no")
    with pytest.raises(FailedPrecondition):
        await host.filesystems.mount(DEVICE, host.path, "ext4", ())
    assert [path.name for path in (host.root / "kubelet").iterdir()] == []


async def test_a_directory_that_was_there_before_stays(host: Host) -> None:
    (host.root / "kubelet" / "staging").mkdir(parents=True)
    host.runner.on("mount", returncode=32, stderr="mount: no")
    with pytest.raises(FailedPrecondition):
        await host.filesystems.mount(DEVICE, host.path, "ext4", ())
    assert [path.name for path in (host.root / "kubelet").iterdir()] == ["staging"]


async def test_a_damaged_ext4_is_mended_safely_and_mounted_again(host: Host) -> None:
    host.runner.on("mount", returncode=32, stderr=DAMAGED, times=1).on("e2fsck", "-p", returncode=1).on("mount")
    await host.filesystems.mount(DEVICE, host.path, "ext4", ())
    assert [call[0] for call in host.runner.calls] == ["mount", "e2fsck", "mount"]


async def test_a_read_only_mount_never_mends(host: Host) -> None:
    host.runner.on("mount", returncode=32, stderr=DAMAGED)
    with pytest.raises(FailedPrecondition, match="corrupted filesystem"):
        await host.filesystems.mount(DEVICE, host.path, "ext4", ["ro"])
    assert [call[0] for call in host.runner.calls] == ["mount"]


async def test_damage_beyond_preening_is_for_a_person(host: Host) -> None:
    host.runner.on("mount", returncode=32, stderr=DAMAGED)
    host.runner.on("e2fsck", returncode=4, stderr="/dev/nvme0n1: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.")
    with pytest.raises(FailedPrecondition, match="UNEXPECTED INCONSISTENCY"):
        await host.filesystems.mount(DEVICE, host.path, "ext4", ())
    assert host.runner.called("mount") == 1


async def test_a_preen_that_takes_too_long_is_for_a_person(host: Host) -> None:
    host.runner.on("mount", returncode=32, stderr=DAMAGED).on("e2fsck", error=DeadlineExceeded("e2fsck was killed"))
    with pytest.raises(FailedPrecondition, match="by hand"):
        await host.filesystems.mount(DEVICE, host.path, "ext4", ())


async def test_a_clean_check_leaves_the_first_error(host: Host) -> None:
    host.runner.on("mount", returncode=32, stderr="mount: /s: wrong fs type, bad option, bad superblock on …")
    host.runner.on("e2fsck", returncode=0)
    with pytest.raises(FailedPrecondition, match="wrong fs type"):
        await host.filesystems.mount(DEVICE, host.path, "ext4", ())
    assert host.runner.called("mount") == 1


async def test_nothing_is_stacked_on_a_mount(host: Host) -> None:
    host.show([host.path])
    with pytest.raises(FailedPrecondition, match="something is mounted at"):
        await host.filesystems.mount(DEVICE, host.path, "ext4", ())
    with pytest.raises(FailedPrecondition, match="something is mounted at"):
        await host.filesystems.bind(str(host.root), host.path, read_only=False, flags=())
    assert host.runner.calls == []


async def test_a_refused_flag_starts_nothing(host: Host) -> None:
    with pytest.raises(InvalidArgument):
        await host.filesystems.mount(DEVICE, host.path, "ext4", ["loop"])
    assert host.runner.calls == []


async def test_a_file_or_symlink_at_the_path_is_refused(host: Host) -> None:
    (host.root / "kubelet").mkdir()
    (host.root / "kubelet" / "staging").symlink_to("/")
    with pytest.raises(FailedPrecondition, match="not a directory"):
        await host.filesystems.mount(DEVICE, host.path, "ext4", ())


async def test_every_stacked_mount_is_undone_and_an_absent_one_is_fine(host: Host) -> None:
    host.show([host.path] * 3)

    def pop(_argv: tuple[str, ...]) -> None:
        host.show([host.path] * (3 - host.runner.called("umount")))

    host.runner.on("umount", effect=pop)
    await host.filesystems.unmount(host.path)
    await host.filesystems.unmount(host.path)
    assert host.runner.calls == [("umount", "-i", "-n", "-c", host.path)] * 3


async def test_a_busy_mount_names_who_holds_it(host: Host) -> None:
    host.show([host.path])
    process = host.root / "proc" / "42"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text("postgres\n")
    (process / "fd" / "7").symlink_to(f"{host.path}/base/1")
    host.runner.on("umount", returncode=32, stderr=f"umount: {host.path}: target is busy.")
    with pytest.raises(FailedPrecondition, match=r"pid 42 \(postgres\)"):
        await host.filesystems.unmount(host.path)


async def test_a_mount_with_others_in_it_names_them(host: Host) -> None:
    host.show([host.path, f"{host.path}/inner"])
    host.runner.on("umount", returncode=32, stderr=f"umount: {host.path}: target is busy.")
    with pytest.raises(FailedPrecondition, match="staging/inner is mounted in it"):
        await host.filesystems.unmount(host.path)


async def test_an_unmount_that_failed_otherwise_is_unavailable(host: Host) -> None:
    host.show([host.path])
    host.runner.on("umount", returncode=32, stderr="umount: I/O error")
    with pytest.raises(Unavailable, match="I/O error"):
        await host.filesystems.unmount(host.path)


async def test_a_mount_that_comes_back_again_and_again_ends_the_loop(host: Host) -> None:
    host.show([host.path])
    host.runner.on("umount")
    with pytest.raises(Unavailable, match="again and again"):
        await host.filesystems.unmount(host.path)


async def test_mounts_are_found_by_number_and_btrfs_by_its_source(host: Host) -> None:
    host.show([host.path, "/bind"])
    assert [mount.path for mount in await host.filesystems.mounts_of(DEVICE)] == [host.path, "/bind"]
    host.show([host.path], number="259:2")
    assert list(await host.filesystems.mounts_of(DEVICE)) == []
    host.show([host.path], number="0:40", tail="btrfs /dev/nvme0n1 rw")
    assert [mount.path for mount in await host.filesystems.mounts_of(DEVICE)] == [host.path]
    host.show([host.path], number="0:40", tail="btrfs /dev/nvme1n1 rw")
    assert list(await host.filesystems.mounts_of(DEVICE)) == []
    host.show([host.path], number="0:41", tail="tmpfs /dev/nvme0n1 rw")
    assert list(await host.filesystems.mounts_of(DEVICE)) == []


async def test_a_table_that_cannot_be_read_is_never_an_empty_one(tmp_path: Path) -> None:
    filesystems = HostFilesystems(ScriptedRunner(), Workers(), HostPaths(str(tmp_path)))
    with pytest.raises(Unavailable, match="mountinfo cannot be read"):
        await filesystems.mount_table()


async def test_a_cancelled_mount_is_given_up_and_leaves_no_directory(host: Host) -> None:
    runner = StuckRunner()
    filesystems = HostFilesystems(runner, Workers(), HostPaths(str(host.root)))
    mounting = asyncio.create_task(filesystems.mount(DEVICE, host.path, "ext4", ()))
    await runner.started.wait()
    mounting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await mounting
    assert runner.ended
    assert os.listdir(host.root / "kubelet") == []
