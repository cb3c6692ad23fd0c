"""SIGKILL at every moment that matters: an operation on image files is killed before each of its system calls.

This file runs as a program of its own, too: it forks a child for every point, in which an audit hook
(PEP 578) counts the calls that open, rename, remove or truncate files and kills the child at the chosen one.
Then another child starts the array anew, repeats the operation and looks.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

import pytest

from rds_csi.arrays.local import LocalArray, open_array
from rds_csi.arrays.protocol import ArrayOptions
from rds_csi.model.host import HostPaths
from rds_csi.model.parameters import Provisioning
from rds_csi.model.sizes import MIB
from rds_csi.model.volumes import AccessMode, Attachment, ContentSource, Node, SourceKind, VolumeSpec
from rds_csi.process import ProcessRunner
from rds_csi.workers import Workers

_EVENTS = frozenset({"open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "fcntl.ioctl"})
_MOST_POINTS = 200

Step = Callable[[LocalArray], Awaitable[object]]


def _spec(
    volume_id: str,
    size: int = 2 * MIB,
    *,
    provisioning: Provisioning = Provisioning.THIN,
    source: ContentSource | None = None,
) -> VolumeSpec:
    return VolumeSpec(volume_id, volume_id, size, provisioning, source=source)


def _content(directory: Path, kind: str, name: str) -> bytes:
    return (directory / kind / f"{name}.img").read_bytes()


def _files(directory: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in directory.rglob(pattern) if path.is_file())


async def _nothing(array: LocalArray) -> None:
    pass


async def _two_volumes(array: LocalArray) -> None:
    for volume_id in ("v1", "v2"):
        volume = await array.create_volume(_spec(volume_id))
        path = volume.target.to_context()["imageFile"]
        with open(path, "r+b") as stream:  # noqa: ASYNC230 - a program of its own, nothing else runs
            stream.write(volume_id.encode() * (MIB // 2))


async def _volumes_and_snapshot(array: LocalArray) -> None:
    await _two_volumes(array)
    await array.create_snapshot("s1", "s1", "v1")


async def _volumes_and_group(array: LocalArray) -> None:
    await _two_volumes(array)
    await array.create_group("g1", "g1", ["v1", "v2"])


async def _attach(array: LocalArray) -> None:
    await array.attach_volume("v1", Attachment(Node("n1"), "t", AccessMode.SINGLE_NODE_WRITER))


async def _attached(array: LocalArray) -> None:
    await _two_volumes(array)
    await _attach(array)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is there before, the operation that is killed and repeated, and what must be true afterwards."""

    prepare: Step
    act: Step
    holds: Callable[[Path], bool]


_CLONED = b"v1" * (MIB // 2) + bytes(MIB)

SCENARIOS = {
    "create": Scenario(
        _nothing, lambda array: array.create_volume(_spec("v1")), lambda path: len(_content(path, "volumes", "v1")) > 0
    ),
    "create_thick": Scenario(
        _nothing,
        lambda array: array.create_volume(_spec("v1", provisioning=Provisioning.THICK)),
        lambda path: (path / "volumes" / "v1.img").stat().st_blocks * 512 >= 2 * MIB,
    ),
    "clone": Scenario(
        _two_volumes,
        lambda array: array.create_volume(_spec("v3", source=ContentSource(SourceKind.VOLUME, "v1"))),
        lambda path: _content(path, "volumes", "v3") == _CLONED,
    ),
    "expand": Scenario(
        _two_volumes,
        lambda array: array.expand_volume("v1", 5 * MIB),
        lambda path: _content(path, "volumes", "v1") == _CLONED + bytes(3 * MIB),
    ),
    "attach": Scenario(_two_volumes, _attach, lambda path: b'"n1"' in (path / "volumes" / "v1.json").read_bytes()),
    "detach": Scenario(
        _attached,
        lambda array: array.detach_volume("v1", "n1"),
        lambda path: b'"n1"' not in (path / "volumes" / "v1.json").read_bytes(),
    ),
    "delete": Scenario(
        _two_volumes,
        lambda array: array.delete_volume("v1"),
        lambda path: sorted(os.listdir(path / "volumes")) == ["v2.img", "v2.json"],
    ),
    "snapshot": Scenario(
        _two_volumes,
        lambda array: array.create_snapshot("s1", "s1", "v1"),
        lambda path: _content(path, "snapshots", "s1") == _CLONED,
    ),
    "restore": Scenario(
        _volumes_and_snapshot,
        lambda array: array.create_volume(_spec("v3", source=ContentSource(SourceKind.SNAPSHOT, "s1"))),
        lambda path: _content(path, "volumes", "v3") == _CLONED,
    ),
    "delete_snapshot": Scenario(
        _volumes_and_snapshot,
        lambda array: array.delete_snapshot("s1"),
        lambda path: os.listdir(path / "snapshots") == [],
    ),
    "group": Scenario(
        _two_volumes,
        lambda array: array.create_group("g1", "g1", ["v1", "v2"]),
        lambda path: _content(path, "snapshots", "g1-v1") == _CLONED,
    ),
    "delete_group": Scenario(
        _volumes_and_group,
        lambda array: array.delete_group("g1"),
        lambda path: os.listdir(path / "snapshots") + os.listdir(path / "groups") == [],
    ),
}


async def _start(directory: Path) -> LocalArray:
    host = HostPaths(str(directory.parent / "host"))
    array = open_array(f"local://{directory}", ArrayOptions(ProcessRunner(), Workers(), host, "nqn.2026-01.io.x:"))
    await array.start()
    return array


def _arm(point: int) -> None:
    """Kill this process at its ``point``-th call from now on."""
    seen = 0

    def count(event: str, _: object) -> None:
        nonlocal seen
        if event in _EVENTS:
            seen += 1
            if seen > point:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


async def _killed(scenario: Scenario, directory: Path, point: int) -> None:
    array = await _start(directory)
    await scenario.prepare(array)
    _arm(point)
    await scenario.act(array)


async def _repeated(scenario: Scenario, directory: Path) -> None:
    array = await _start(directory)
    for finding in await array.check():
        assert finding.ok, finding
    temporary = _files(directory, ".new-*")
    assert not temporary, temporary
    await scenario.act(array)
    await scenario.act(array)
    assert scenario.holds(directory)
    before = (await array.list_volumes(), await array.list_snapshots())
    await array.close()
    array = await _start(directory)
    assert (await array.list_volumes(), await array.list_snapshots()) == before
    for volume in before[0]:
        assert list(await array.health(volume.volume_id)) == []
        await array.detach_volume(volume.volume_id, "")
        await array.delete_volume(volume.volume_id)
    await array.delete_group("g1")
    for snapshot in await array.list_snapshots():
        await array.delete_snapshot(snapshot.snapshot_id)
    left = _files(directory, "*")
    assert left == ["lock"], left


def _in_child(work: Coroutine[object, object, None]) -> int:
    """Run in a forked child; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(work)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    work.close()
    return os.waitpid(child, 0)[1]


def main(name: str, place: str) -> int:
    """Kill the scenario at every point, until it comes to its end unharmed; tell how many points there were."""
    scenario = SCENARIOS[name]
    for point in range(_MOST_POINTS):
        directory = Path(place) / "array"
        status = _in_child(_killed(scenario, directory, point))
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL) and status != 0:
            print(f"{name} failed before point {point}")
            return 1
        if _in_child(_repeated(scenario, directory)) != 0:
            print(f"{name} killed at point {point}: the repeat did not complete it")
            return 1
        shutil.rmtree(directory)
        if status == 0:
            print(f"{point} points")
            return 0
    return 1


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_killed_at_any_point_the_repeat_completes(name: str, tmp_path: Path) -> None:
    program = subprocess.run(
        [sys.executable, __file__, name, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert program.returncode == 0, program.stdout + program.stderr
    assert int(program.stdout.split()[0]) >= 3


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
