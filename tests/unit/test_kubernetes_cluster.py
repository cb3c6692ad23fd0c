"""The cluster as a whole: where there is one, what it does in the background, and which rights it needs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rds_csi.kubernetes.cluster import Cluster, open_cluster
from rds_csi.kubernetes.resources import node_path
from rds_csi.model.notices import ClaimName, Notice, Reason
from rds_csi.settings import load_settings
from tests.support.clock import FakeClock
from tests.support.kube_api import Fault, KubeApi, Status
from tests.support.rpc import eventually, open_descriptors

DRIVER, NODE = "rds.example.io", "node-a"
NQN = "nqn.2026-01.io.example:pvc-1"
SETTINGS = load_settings({"driver_name": DRIVER, "node_id": NODE})
TAINT = {"key": f"{DRIVER}/agent-not-ready", "effect": "NoSchedule"}
REFUSED = Notice(Reason.FORMAT_REFUSED, "it holds data", warning=True, volume_id="pvc-1")
ORPHAN = Notice(Reason.ORPHAN_DISCONNECTED, "it was left over", warning=True, nqn=NQN)

# What docs and chart promise: verbs on resources, for the two ServiceAccounts.
NODE_RIGHTS = {
    ("create", "events"),
    ("patch", "events"),
    ("get", "nodes"),
    ("patch", "nodes"),
    ("get", "persistentvolumes"),
    ("list", "persistentvolumes"),
    ("list", "volumeattachments"),
}
CONTROLLER_RIGHTS = {
    ("create", "events"),
    ("patch", "events"),
    ("get", "persistentvolumeclaims"),
    ("get", "persistentvolumes"),
    ("list", "persistentvolumes"),
}


@asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[Cluster]:
    await cluster.start()
    task = asyncio.create_task(cluster.run())
    try:
        yield cluster
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cluster.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeApi]:
    server = KubeApi(tmp_path)
    server.add_node(NODE, taints=[TAINT])
    server.add_volume("pvc-1", "pvc-1", driver=DRIVER, nqn=NQN, claim=("team", "data"))
    server.add_volume("static", "disk-7", driver=DRIVER, nqn=f"{NQN}-static")
    server.add_claim("team", "new")
    server.attach("pvc-1", "node-b", driver=DRIVER)
    async with server.serve():
        yield server


def opened(server: KubeApi) -> Cluster:
    cluster = open_cluster(SETTINGS, root=str(server.root), environment=server.environment)
    assert cluster is not None
    return cluster


def with_clock(server: KubeApi, clock: FakeClock) -> Cluster:
    return Cluster(server.client(clock.clock), driver_name=DRIVER, node_name=NODE, clock=clock.clock)


async def test_there_is_no_cluster_outside_of_one_and_where_none_is_wanted(server: KubeApi) -> None:
    off = SETTINGS.model_copy(update={"kubernetes": "off"})
    assert open_cluster(off, root=str(server.root), environment=server.environment) is None
    assert open_cluster(SETTINGS, root=str(server.root), environment={}) is None
    assert open_cluster(SETTINGS, root=str(server.root / "elsewhere"), environment=server.environment) is None


async def test_in_a_cluster_everything_works_and_leaves_nothing_open(server: KubeApi) -> None:
    before = open_descriptors()
    async with running(opened(server)) as cluster:
        cluster.announce(REFUSED)
        await cluster.node_ready()
        assert await cluster.moved() == {NQN}
        await eventually(lambda: len(server.events) == 2, "the events are there")
        await eventually(lambda: server.objects[node_path(NODE)]["spec"]["taints"] == [], "the taint is gone")
    await eventually(lambda: open_descriptors() <= before, "everything is closed")


async def test_a_node_needs_exactly_these_rights(server: KubeApi) -> None:
    clock = FakeClock()
    async with running(with_clock(server, clock)) as cluster:
        for notice in (REFUSED, REFUSED, ORPHAN):
            cluster.announce(notice)
        cluster.announce(Notice(Reason.SESSION_LOST, "it is away", warning=True, volume_id="disk-7"))
        await cluster.node_ready()
        await cluster.moved()
        await cluster.wait_for_detach(60.0)
        await eventually(lambda: server.count("patch", "nodes") == 1, "the taint is gone")
        await eventually(lambda: len(server.events) == 4, "the events are there")
        cluster.announce(REFUSED)
        await eventually(lambda: server.count("patch", "events") == 2, "the repeat is told")
    assert server.used == NODE_RIGHTS


async def test_a_controller_needs_exactly_these_rights(server: KubeApi) -> None:
    clock = FakeClock()
    full = Notice(Reason.ARRAY_FULL, "it is full", warning=True, claim=ClaimName("team", "new"))
    growth = Notice(Reason.ARRAY_FULL, "it is full", warning=True, volume_id="disk-7")
    cloned = Notice(Reason.DUPLICATE_HOST_IDENTITY, "twice", warning=True, node="node-b")
    async with running(with_clock(server, clock)) as cluster:
        for notice in (full, full, growth, cloned):
            cluster.announce(notice)
        await eventually(lambda: len(server.events) == 3, "the events are there")
        cluster.announce(full)
        await eventually(lambda: server.count("patch", "events") == 1, "the repeat is told")
        cluster.announce(Notice(Reason.ARRAY_FULL, "it is full", warning=True, volume_id="pvc-1"))
        await eventually(lambda: server.count("get", "persistentvolumes") == 2, "it is looked up")
    assert server.used == CONTROLLER_RIGHTS


async def test_an_api_server_that_is_away_holds_up_nobody(server: KubeApi, caplog: pytest.LogCaptureFixture) -> None:
    server.faults = [Status(503)] * 1000
    clock = FakeClock()
    async with running(with_clock(server, clock)) as cluster:
        cluster.announce(REFUSED)
        await cluster.node_ready()
        assert await cluster.moved() == frozenset()
        await eventually(lambda: "was away for" in caplog.text, "the event is given up")
    assert sum("stays on node" in record.getMessage() for record in caplog.records) == 1
    assert sum("not told as an event" in record.getMessage() for record in caplog.records) == 1


async def test_the_last_events_are_told_before_the_end(server: KubeApi) -> None:
    cluster = opened(server)
    cluster.announce(ORPHAN)
    await cluster.close()
    assert len(server.events) == 1


@pytest.mark.parametrize("fault", [Fault.CUT, Status(500)])
async def test_the_end_comes_also_when_they_cannot_be_told(server: KubeApi, fault: Fault | Status) -> None:
    cluster = opened(server)
    cluster.announce(ORPHAN)
    server.faults = [fault]
    await cluster.close()
    assert server.events == []


async def test_an_error_of_its_own_does_not_break_the_end(server: KubeApi) -> None:
    before = open_descriptors()
    cluster = opened(server)
    # What no code of this project makes: a volume id that is no text cannot be looked up.
    cluster.announce(Notice(REFUSED.reason, "broken", warning=True, volume_id=7))  # type: ignore[arg-type]
    await cluster.close()
    assert open_descriptors() <= before
