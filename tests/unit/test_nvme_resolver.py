"""From NQNs to devices: looks that are shared, and what counts as connected, orphaned and usable."""

import asyncio
import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from rds_csi.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.sessions import SessionIndex
from rds_csi.workers import Workers
from tests.support.nvme_tree import NvmeTree

T = TypeVar("T")
NQN = "nqn.2026-01.io.example:v"
UUID = "00000000-0000-4000-8000-00000000000a"


class GatedWorkers(Workers):
    """Counts what begins, and lets each end only when ``gate`` is open; ``failure`` is raised instead, once."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.began = asyncio.Semaphore(0)
        self.gate = asyncio.Event()
        self.failure: OSError | None = None

    async def run(self, function: Callable[[], T], *, timeout: float, key: str = "") -> T:
        self.begun += 1
        self.began.release()
        await self.gate.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        return await super().run(function, timeout=timeout, key=key)


class StallingWorkers(Workers):
    """Whose functions hang until ``gate`` opens, and are given up after a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    async def run(self, function: Callable[[], T], *, timeout: float, key: str = "") -> T:
        def stall() -> T:
            self.gate.wait()
            return function()

        return await super().run(stall, timeout=0.05, key=key)


def ask(resolver: DeviceResolver, number: int) -> list[asyncio.Task[SessionIndex]]:
    return [asyncio.create_task(resolver.index()) for _ in range(number)]


async def test_who_asks_during_a_scan_shares_the_next_one(tmp_path: Path) -> None:
    tree, workers = NvmeTree(tmp_path), GatedWorkers()
    resolver = DeviceResolver(tree.host, workers)
    first = ask(resolver, 3)
    await workers.began.acquire()
    second = ask(resolver, 5)
    for _ in range(10):
        await asyncio.sleep(0)
    assert workers.begun == 1

    workers.gate.set()
    indexes = await asyncio.gather(*first, *second)

    assert workers.begun == 2
    assert {id(index) for index in indexes[:3]}.isdisjoint({id(index) for index in indexes[3:]})
    assert len({id(index) for index in indexes}) == 2


async def test_a_scan_sees_what_came_before_it_was_asked_for(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    resolver = DeviceResolver(tree.host, Workers())
    for number in range(5):
        earlier = asyncio.create_task(resolver.index())
        await asyncio.sleep(0.001 * number)
        tree.add_session(f"{NQN}{number}")
        assert (await resolver.index()).session(f"{NQN}{number}") is not None
        await earlier


async def test_a_caller_who_is_cancelled_takes_the_scan_from_nobody(tmp_path: Path) -> None:
    tree, workers = NvmeTree(tmp_path), GatedWorkers()
    tree.add_session(NQN)
    resolver = DeviceResolver(tree.host, workers)
    leaving, staying = ask(resolver, 2)
    await workers.began.acquire()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    workers.gate.set()
    assert len(await staying) == 1
    assert workers.begun == 1


async def test_a_scan_that_fails_tells_all_who_share_it_and_the_next_is_a_new_one(tmp_path: Path) -> None:
    tree, workers = NvmeTree(tmp_path), GatedWorkers()
    workers.gate.set()
    workers.failure = OSError(errno.EMFILE, "Too many open files")
    resolver = DeviceResolver(tree.host, workers)
    answers = await asyncio.gather(*ask(resolver, 2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ResourceExhausted] * 2
    assert len(await resolver.index()) == 0


async def test_the_sessions_of_none_cost_no_look(tmp_path: Path) -> None:
    tree, workers = NvmeTree(tmp_path), GatedWorkers()
    tree.add_session(f"{NQN}0")
    resolver = DeviceResolver(tree.host, workers)
    assert await resolver.sessions(()) == {}
    assert workers.begun == 0
    workers.gate.set()
    assert set(await resolver.sessions((f"{NQN}0", f"{NQN}1"))) == {f"{NQN}0"}
    assert workers.begun == 1


async def test_repeated_looks_at_sessions_do_not_pile_up_behind_one_that_is_stuck(tmp_path: Path) -> None:
    workers = StallingWorkers()
    resolver = DeviceResolver(NvmeTree(tmp_path).host, workers)
    try:
        with pytest.raises(DeadlineExceeded):
            await resolver.sessions((f"{NQN}0",))
        with pytest.raises(Unavailable, match="has not come back"):
            await resolver.sessions((f"{NQN}0",))
    finally:
        workers.gate.set()


async def test_a_failure_that_nobody_waits_for_is_not_reported(tmp_path: Path) -> None:
    workers = GatedWorkers()
    workers.failure = OSError(errno.EIO, "Input/output error")
    resolver = DeviceResolver(NvmeTree(tmp_path).host, workers)
    (leaving,) = ask(resolver, 1)
    await workers.began.acquire()
    leaving.cancel()
    workers.gate.set()
    # A warning of asyncio about it would be an error here.
    assert len(await resolver.index()) == 0


async def test_a_look_that_fails_is_unavailable_and_not_an_absence(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    tree.add_session(NQN)
    attribute = tree.path("sys/class/nvme-subsystem/nvme-subsys0/subsysnqn")
    attribute.unlink()
    attribute.mkdir()
    resolver = DeviceResolver(tree.host, Workers())
    for look in (resolver.session(NQN), resolver.resolve(NQN), resolver.is_orphaned_subsystem(NQN)):
        with pytest.raises(Unavailable, match="NVMe sessions of this node"):
            await look
    with pytest.raises(Unavailable):
        await resolver.list_connected_subsystems()


async def test_connected_is_what_has_a_controller(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    for number, state in enumerate(("live", "connecting", "deleting", "live")):
        tree.add_session(f"{NQN}{number}", state=state)
    tree.path("sys/devices/virtual/nvme-subsystem/nvme-subsys3/nvme3").unlink()
    resolver = DeviceResolver(tree.host, Workers())
    assert sorted(await resolver.list_connected_subsystems()) == [f"{NQN}0", f"{NQN}1", f"{NQN}2"]


@pytest.mark.parametrize("multipath", [True, False])
@pytest.mark.parametrize(
    ("state", "namespace", "orphaned"),
    [
        ("live", True, False),
        ("connecting", True, False),
        ("resetting", True, False),
        ("deleting (no IO)", True, True),
        ("dead", True, True),
        ("live", False, True),
        ("connecting", False, True),
    ],
)
async def test_an_orphan_has_no_device_on_a_path_that_is_live_or_coming(
    tmp_path: Path, multipath: bool, state: str, namespace: bool, orphaned: bool
) -> None:
    tree = NvmeTree(tmp_path, multipath=multipath)
    number = tree.add_session(NQN, state=state)
    if namespace:
        tree.add_namespace(number)
    resolver = DeviceResolver(tree.host, Workers())
    assert await resolver.is_orphaned_subsystem(NQN) is orphaned
    assert (await resolver.resolve(NQN) is not None) is not orphaned


async def test_what_is_not_connected_is_no_orphan(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    tree.add_session(NQN)
    tree.path("sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0").unlink()
    resolver = DeviceResolver(tree.host, Workers())
    assert not await resolver.is_orphaned_subsystem(NQN)
    assert not await resolver.is_orphaned_subsystem(f"{NQN}-absent")
    assert await resolver.resolve(NQN) is None


async def test_a_namespace_is_resolved_by_uuid_then_nsid_then_nsid_1(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    number = tree.add_session(NQN)
    tree.add_namespace(number, nsid=1)
    tree.add_namespace(number, nsid=7, uuid=UUID.upper())
    resolver = DeviceResolver(tree.host, Workers())

    async def device(*, nsid: int = 0, uuid: str = "") -> str:
        namespace = await resolver.resolve(NQN, nsid=nsid, uuid=uuid)
        return namespace.device if namespace is not None else ""

    assert await device() == "nvme0n1"
    assert await device(nsid=7) == "nvme0n7"
    assert await device(nsid=1, uuid=UUID) == "nvme0n7"
    assert await device(nsid=2) == ""
    assert await device(nsid=1, uuid=UUID.replace("a", "b")) == ""
