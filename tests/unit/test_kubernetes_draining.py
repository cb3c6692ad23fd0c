"""A node that is being drained keeps its driver until nothing is attached to it any more."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rds_csi.kubernetes.attachments import Attachments
from rds_csi.kubernetes.draining import ASK_SECONDS, LOOK_SECONDS, Draining
from rds_csi.kubernetes.resources import node_path
from tests.support.clock import FakeClock
from tests.support.kube_api import Fault, KubeApi, Status
from tests.support.kube_rules import Object

DRIVER, NODE = "rds.example.io", "node-a"
TIMEOUT = 60.0


class Bench:
    def __init__(self, server: KubeApi, draining: Draining, clock: FakeClock) -> None:
        self.server = server
        self.draining = draining
        self.clock = clock
        self.told: list[str] = []

    async def wait(self) -> bool:
        return await self.draining.wait(TIMEOUT, self.told.append)

    def at_look(self, number: int, gone: list[str], *, uncordoned: bool = False) -> None:
        """What happens right before the ``number``-th look at the node: these objects go, the node takes pods again."""

        def meanwhile(verb: str, resource: str) -> None:
            if resource == "nodes" and self.server.count("get", "nodes") == number:
                for path in gone:
                    del self.server.objects[path]
                if uncordoned:
                    self.server.add_node(NODE)

        self.server.meanwhile = meanwhile


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    server, clock = KubeApi(tmp_path), FakeClock()
    async with server.serve():
        api = server.client(clock.clock)
        attachments = Attachments(api, driver_name=DRIVER, node_name=NODE)
        yield Bench(server, Draining(api, attachments, driver_name=DRIVER, node_name=NODE, clock=clock.clock), clock)
        await api.close()


def taint(key: str, effect: str) -> Object:
    return {"key": key, "effect": effect}


@pytest.mark.parametrize(
    "taints",
    [
        None,
        [taint("example.io/gpu", "NoSchedule")],
        # The driver's own keeps pods away until it is ready, which is no drain.
        [taint(f"{DRIVER}/agent-not-ready", "NoExecute")],
    ],
)
async def test_a_node_that_is_not_drained_is_not_waited_for(bench: Bench, taints: list[Object] | None) -> None:
    bench.server.add_node(NODE, taints=taints)
    bench.server.attach("pv-1", NODE, driver=DRIVER)
    assert await bench.wait()
    assert bench.told == ["node node-a is not being drained: nothing to wait for"]
    assert bench.clock.pauses == []
    assert bench.server.used == {("get", "nodes")}


@pytest.mark.parametrize(
    ("taints", "why"),
    [
        ([taint("example.io/leave", "NoExecute")], "it has the taint example.io/leave"),
        (
            [taint("node.kubernetes.io/out-of-service", "NoSchedule")],
            "it has the taint node.kubernetes.io/out-of-service",
        ),
        ([taint("ToBeDeletedByClusterAutoscaler", "NoSchedule")], "it has the taint ToBeDeletedByClusterAutoscaler"),
        ([taint("karpenter.sh/disrupted", "NoSchedule")], "it has the taint karpenter.sh/disrupted"),
    ],
)
async def test_a_taint_that_empties_the_node_is_a_drain(bench: Bench, taints: list[Object], why: str) -> None:
    bench.server.add_node(NODE, taints=taints)
    bench.at_look(3, [bench.server.attach("pv-1", NODE, driver=DRIVER)])
    assert await bench.wait()
    assert bench.told[0] == f"node node-a is being drained ({why}): waiting for pv-1 to be detached"
    assert bench.clock.seconds == 2 * LOOK_SECONDS


async def test_a_cordoned_node_is_waited_for_until_nothing_of_this_driver_is_attached(bench: Bench) -> None:
    bench.server.add_node(NODE, unschedulable=True)
    bench.server.attach("pv-x", NODE, driver="another.example.io")
    bench.server.attach("pv-y", "node-b", driver=DRIVER)
    bench.at_look(5, [bench.server.attach("pv-1", NODE, driver=DRIVER)])
    assert await bench.wait()
    assert bench.told == [
        "node node-a is being drained (it is unschedulable): waiting for pv-1 to be detached",
        "node node-a is being drained (it is unschedulable), and nothing is attached to it: nothing to wait for",
    ]


async def test_a_node_that_is_deleted_is_drained(bench: Bench) -> None:
    bench.at_look(2, [bench.server.attach("pv-1", NODE, driver=DRIVER)])
    assert await bench.wait()
    assert bench.told[0] == "node node-a is being drained (it is deleted): waiting for pv-1 to be detached"


async def test_many_volumes_are_told_by_some(bench: Bench) -> None:
    bench.server.add_node(NODE, unschedulable=True)
    bench.at_look(2, [bench.server.attach(f"pv-{number}", NODE, driver=DRIVER) for number in range(8)])
    assert await bench.wait()
    assert "waiting for pv-0, pv-1, pv-2, pv-3, pv-4 and 3 more to be detached" in bench.told[0]


async def test_the_wait_ends_with_its_time(bench: Bench) -> None:
    bench.server.add_node(NODE, unschedulable=True)
    bench.server.attach("pv-1", NODE, driver=DRIVER)
    assert not await bench.wait()
    assert bench.clock.seconds == TIMEOUT
    assert bench.told[1:] == ["no longer waited for"]


async def test_a_drain_that_is_called_off_ends_the_wait(bench: Bench) -> None:
    bench.server.add_node(NODE, unschedulable=True)
    bench.server.attach("pv-1", NODE, driver=DRIVER)
    bench.at_look(2, [], uncordoned=True)
    assert await bench.wait()
    assert bench.told[1:] == ["node node-a is not being drained: nothing to wait for"]


async def test_an_api_server_that_is_away_is_not_waited_for_long(bench: Bench) -> None:
    bench.server.faults = [Status(503)] * 100
    assert not await bench.wait()
    assert bench.clock.seconds == ASK_SECONDS
    assert len(bench.told) == 2
    assert "cannot be looked at" in bench.told[0]


async def test_an_api_server_that_goes_away_in_between_is_waited_for(bench: Bench) -> None:
    bench.server.add_node(NODE, unschedulable=True)
    path = bench.server.attach("pv-1", NODE, driver=DRIVER)
    bench.server.faults = [None, None, *[Fault.CUT] * 20]
    bench.at_look(3, [path])
    assert await bench.wait()
    assert bench.clock.seconds > ASK_SECONDS
    assert node_path(NODE) in bench.server.objects
