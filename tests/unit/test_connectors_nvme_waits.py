"""Waits for a session are ended by its own uevents, and by nobody else's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rds_csi.connectors.nvme_waits import NvmeWaits
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.sessions import Session
from rds_csi.nvme.uevents import Bell, Uevent, Uevents
from rds_csi.retry import Sleep
from rds_csi.workers import Workers
from tests.support.clock import FakeClock
from tests.support.nvme_bench import NQN, TARGET, UUID
from tests.support.nvme_tree import NvmeTree

SUBSYSTEM = "/devices/virtual/nvme-subsystem/nvme-subsys0"
CONTROLLER = "/devices/virtual/nvme-fabrics/ctl/nvme0"


class HandRung(Uevents):
    """Uevents that a test makes up; ``wanted`` is what the waiter listens to."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: Callable[[Uevent], bool] = lambda _: False
        self.bell: Bell | None = None

    @contextmanager
    def listening(self, wanted: Callable[[Uevent], bool], sleep: Sleep = lambda _: _nothing()) -> Iterator[Bell]:
        self.wanted, self.bell = wanted, Bell(sleep)
        yield self.bell


async def _nothing() -> None:
    return


def event(devpath: str) -> Uevent:
    return Uevent("add", devpath, "block", "")


@pytest.fixture
def tree(tmp_path: Path) -> NvmeTree:
    return NvmeTree(tmp_path)


async def test_only_the_events_of_the_session_end_a_wait(tree: NvmeTree) -> None:
    clock, uevents = FakeClock(), HandRung()
    workers = Workers()
    waits = NvmeWaits(tree.host, workers, tree.nodes, clock.clock, DeviceResolver(tree.host, workers), uevents)
    tree.add_session(NQN)
    looks = 0

    async def judge(session: Session | None) -> bool | None:
        nonlocal looks
        looks += 1
        if looks == 1:
            # What comes while the first look is on its way may be about anything.
            return None
        for own in (SUBSYSTEM, f"{SUBSYSTEM}/nvme0n1", CONTROLLER, f"{CONTROLLER}/nvme0c0n1"):
            assert uevents.wanted(event(own)), own
        for other in (
            "/devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1",
            "/devices/virtual/nvme-fabrics/ctl/nvme01",
            "/devices/virtual/nvme-subsystem/nvme-subsys00/x",
            "/devices/pci0000:00/0000:00:01.0/virtio0/block/vda",
        ):
            assert not uevents.wanted(event(other)), other
        return True

    assert await waits.until(NQN, judge, timeout=5)
    assert looks == 2


async def test_an_event_ends_the_pause(tree: NvmeTree) -> None:
    clock, uevents = FakeClock(), HandRung()
    workers = Workers()
    waits = NvmeWaits(tree.host, workers, tree.nodes, clock.clock, DeviceResolver(tree.host, workers), uevents)
    tree.add_session(NQN)

    async def judge(session: Session | None) -> bool | None:
        assert session is not None
        assert uevents.bell is not None
        if session.namespaces:
            return True
        # Just after the look: the edge is kept.
        tree.add_namespace(0, uuid=UUID)
        uevents.bell.ring()
        return None

    assert await waits.until(NQN, judge, timeout=5)
    assert clock.pauses == []


async def test_what_is_there_at_once_is_found_without_a_pause(tree: NvmeTree) -> None:
    clock, workers = FakeClock(), Workers()
    waits = NvmeWaits(tree.host, workers, tree.nodes, clock.clock, DeviceResolver(tree.host, workers), HandRung())
    tree.add_namespace(tree.add_session(NQN), uuid=UUID)
    device, session = await waits.appeared(TARGET, fresh=True)
    assert device.path.endswith("/nvme0n1")
    assert session.nqn == NQN
    assert clock.pauses == []
