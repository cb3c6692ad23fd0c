"""Targets, usage, groups and tools of the real filesystems, as far as they need no root."""

import asyncio
import os
import stat
import threading
from pathlib import Path

import pytest

from rds_csi.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from rds_csi.filesystem import targets
from rds_csi.filesystem.group import give_to_group
from rds_csi.filesystem.host import HostFilesystems
from rds_csi.filesystem.looks import Looks
from rds_csi.filesystem.tools import TOOLS, check_tools
from rds_csi.model.host import HostPaths
from rds_csi.workers import Workers
from tests.support.runner import ScriptedRunner


@pytest.fixture
def filesystems() -> HostFilesystems:
    return HostFilesystems(ScriptedRunner(), Workers(), HostPaths())


async def test_only_what_is_empty_is_removed(filesystems: HostFilesystems, tmp_path: Path) -> None:
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "data").touch()
    (tmp_path / "file").touch()
    (tmp_path / "content").write_text("precious")
    for name in ("empty", "file", "absent", "file/below"):
        await filesystems.remove_target(str(tmp_path / name))
    with pytest.raises(FailedPrecondition, match="not empty"):
        await filesystems.remove_target(str(tmp_path / "full"))
    with pytest.raises(FailedPrecondition, match="with content"):
        await filesystems.remove_target(str(tmp_path / "content"))
    assert sorted(os.listdir(tmp_path)) == ["content", "full"]


async def test_what_no_driver_puts_at_a_target_is_not_removed(filesystems: HostFilesystems, tmp_path: Path) -> None:
    (tmp_path / "symlink").symlink_to("absent")
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
    for name in ("symlink", "fifo", "socket"):
        with pytest.raises(FailedPrecondition, match="neither a directory"):
            await filesystems.remove_target(str(tmp_path / name))
    assert sorted(os.listdir(tmp_path)) == ["fifo", "socket", "symlink"]


def test_a_directory_is_made_once(tmp_path: Path) -> None:
    path = str(tmp_path / "a" / "b")
    assert targets.ensure_directory(path) is True
    assert targets.ensure_directory(path) is False


async def test_usage_is_that_of_statvfs(filesystems: HostFilesystems, tmp_path: Path) -> None:
    usage = await filesystems.usage(str(tmp_path))
    figures = os.statvfs(tmp_path)
    assert usage.total_bytes == figures.f_blocks * figures.f_frsize
    assert usage.total_inodes == figures.f_files
    assert usage.read_only is False


@pytest.mark.parametrize("name", ["absent", "file/below"])
async def test_usage_of_nothing_is_not_found(filesystems: HostFilesystems, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotFound):
        await filesystems.usage(str(tmp_path / name))


async def test_no_block_node_is_none(filesystems: HostFilesystems, tmp_path: Path) -> None:
    assert await filesystems.block_node_at(str(tmp_path)) is None
    assert await filesystems.block_node_at(str(tmp_path / "absent")) is None


async def test_a_look_is_shared_by_all_who_ask_meanwhile() -> None:
    gate, looks = threading.Event(), 0

    def look() -> int:
        nonlocal looks
        looks += 1
        gate.wait()
        return 7

    shared = Looks[int](Workers(), "usage of", 60.0)
    asking = [asyncio.create_task(shared.look("/a", look)) for _ in range(3)]
    assert await shared.look("/b", lambda: 8) == 8
    asking[0].cancel()
    gate.set()
    assert await asyncio.gather(*asking[1:]) == [7, 7]
    assert looks == 1


async def test_a_stuck_path_is_not_looked_at_again_until_it_comes_back() -> None:
    gate, back = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def stick() -> None:
        gate.wait()
        loop.call_soon_threadsafe(back.set)

    shared = Looks[None](Workers(), "usage of", 0.01)
    with pytest.raises(DeadlineExceeded):
        await shared.look("/dead", stick)
    with pytest.raises(Unavailable, match="has not come back"):
        await shared.look("/dead", stick)
    gate.set()
    await back.wait()


def modes(root: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.lstat().st_mode) for path in root.rglob("*") if not path.is_symlink()}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "volume"
    (root / "directory" / "deeper").mkdir(parents=True)
    (root / "directory" / "deeper" / "file").touch(mode=0o600)
    (root / "program").touch(mode=0o750)
    os.mkfifo(root / "fifo", 0o600)
    (root / "link").symlink_to("../outside")
    (tmp_path / "outside").touch(mode=0o600)
    return root


def test_a_tree_is_given_to_a_group_from_the_leaves_up(tree: Path) -> None:
    give_to_group(str(tree), os.getgid())
    assert modes(tree) == {
        "directory": 0o2775,
        "deeper": 0o2775,
        "file": 0o660,
        "program": 0o770,
        "fifo": 0o660,
    }
    assert stat.S_IMODE(tree.stat().st_mode) & 0o2770 == 0o2770


def test_what_a_symlink_points_to_is_not_touched(tree: Path) -> None:
    give_to_group(str(tree), os.getgid())
    assert stat.S_IMODE((tree.parent / "outside").stat().st_mode) == 0o600


def test_a_root_that_matches_ends_the_walk_at_once(tree: Path) -> None:
    give_to_group(str(tree), os.getgid())
    (tree / "new").touch(mode=0o600)
    give_to_group(str(tree), os.getgid())
    assert modes(tree)["new"] == 0o600


def test_a_symlink_as_root_is_refused(tree: Path) -> None:
    (tree.parent / "way").symlink_to(tree)
    with pytest.raises(FailedPrecondition):
        give_to_group(str(tree.parent / "way"), os.getgid())


def test_a_bottomless_tree_is_refused(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=descriptor)
        deeper = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(descriptor)
    with pytest.raises(FailedPrecondition, match="nested more than"):
        give_to_group(str(tmp_path), os.getgid())


def test_every_missing_tool_has_a_remedy_and_only_the_common_ones_are_needed() -> None:
    findings = {finding.subject: finding for finding in check_tools(lambda name: None)}
    assert set(findings) == {tool.name for tool in TOOLS}
    assert all(finding.remedy.startswith("apt-get install ") for finding in findings.values())
    assert findings["mkfs.xfs"].ok
    assert "xfs cannot be made" in findings["mkfs.xfs"].message
    assert not findings["mount"].ok
    assert not findings["mkfs.ext4"].ok


async def test_the_check_looks_at_tools_and_kernel() -> None:
    filesystems = HostFilesystems(ScriptedRunner(), Workers(), HostPaths(), find_program=lambda name: f"/bin/{name}")
    findings = await filesystems.check()
    assert {"mount", "blkid", "mount_setattr(2)"} <= {finding.subject for finding in findings}
    assert findings[0].message == "/bin/mount"
