"""The start-up taint goes when the node is ready, whatever happens to the node's other taints meanwhile."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from rds_csi.kubernetes.errors import Invalid
from rds_csi.kubernetes.resources import node_path
from rds_csi.kubernetes.taints import StartupTaint
from tests.support.clock import FakeClock
from tests.support.kube_api import Fault, KubeApi, Status
from tests.support.kube_rules import Object
from tests.support.rpc import eventually

DRIVER, NODE = "rds.example.io", "node-a"
OURS: Object = {"key": f"{DRIVER}/agent-not-ready", "effect": "NoExecute"}
OTHER: Object = {"key": "example.io/gpu", "value": "yes", "effect": "NoSchedule"}
LATER: Object = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule", "timeAdded": "2026-11-21T10:00:00Z"}


class Bench:
    def __init__(self, server: KubeApi, taint: StartupTaint, clock: FakeClock) -> None:
        self.server = server
        self.taint = taint
        self.clock = clock

    @property
    def taints(self) -> object:
        return self.server.objects[node_path(NODE)]["spec"].get("taints")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.taint.run())
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    server, clock = KubeApi(tmp_path), FakeClock()
    async with server.serve():
        api = server.client(clock.clock)
        yield Bench(
            server,
            StartupTaint(api, driver_name=DRIVER, node_name=NODE, clock=clock.clock, random=Random(1)),
            clock,
        )
        await api.close()


async def test_the_taint_goes_and_the_others_stay_as_they_are(bench: Bench) -> None:
    bench.server.add_node(NODE, taints=[OTHER, OURS, LATER])
    await bench.taint.remove()
    assert bench.taints == [OTHER, LATER]
    assert bench.server.used == {("get", "nodes"), ("patch", "nodes")}


async def test_it_goes_whatever_its_effects(bench: Bench) -> None:
    bench.server.add_node(NODE, taints=[OURS, {**OURS, "effect": "NoSchedule"}])
    await bench.taint.remove()
    assert bench.taints == []


@pytest.mark.parametrize("taints", [None, [OTHER]])
async def test_a_node_without_it_is_left_alone(bench: Bench, taints: list[Object] | None) -> None:
    bench.server.add_node(NODE, taints=taints)
    await bench.taint.remove()
    assert bench.server.used == {("get", "nodes")}


async def test_a_taint_that_came_meanwhile_is_not_lost(bench: Bench) -> None:
    bench.server.add_node(NODE, taints=[OURS])

    def add_another(verb: str, resource: str) -> None:
        if len(bench.server.asked) == 2:
            bench.server.add_node(NODE, taints=[OURS, LATER])

    bench.server.meanwhile = add_another
    await bench.taint.remove()
    assert bench.taints == [LATER]
    assert bench.server.count("patch", "nodes") == 2


async def test_a_conflict_is_looked_at_again(bench: Bench) -> None:
    bench.server.add_node(NODE, taints=[OURS])
    bench.server.faults = [None, Status(409)]
    await bench.taint.remove()
    assert bench.taints == []


async def test_a_node_that_never_stands_still_is_an_error_in_the_end(bench: Bench) -> None:
    bench.server.add_node(NODE, taints=[OURS])
    bench.server.faults = [None, Status(422)] * 5
    with pytest.raises(Invalid):
        await bench.taint.remove()


async def test_nothing_is_asked_before_the_node_is_ready(bench: Bench) -> None:
    bench.server.add_node(NODE, taints=[OURS])
    async with bench.running():
        for _ in range(20):
            await asyncio.sleep(0)
        assert bench.server.asked == []
        bench.taint.node_is_ready()
        await eventually(lambda: bench.taints == [], "the taint is removed")


async def test_it_is_tried_until_it_is_done_and_a_failure_is_told_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.server.add_node(NODE, taints=[OURS])
    bench.server.faults = [Status(403), Status(403), None, Fault.LOST_REPLY]
    bench.taint.node_is_ready()
    async with bench.running():
        await eventually(lambda: bench.taints == [], "the taint is removed")
        await eventually(lambda: len(bench.clock.pauses) == 3, "the lost reply is looked at again")
    stays = [record.getMessage() for record in caplog.records if "stays on node node-a" in record.getMessage()]
    assert len(stays) == 2
    assert "403" not in stays[0]
    assert bench.clock.pauses[0] < bench.clock.pauses[1] < bench.clock.pauses[2]


async def test_a_node_that_does_not_exist_yet_is_waited_for(bench: Bench) -> None:
    bench.taint.node_is_ready()
    async with bench.running():
        await eventually(lambda: len(bench.clock.pauses) > 2, "it was tried")
        bench.server.add_node(NODE, taints=[OURS])
        await eventually(lambda: bench.taints == [], "the taint is removed")


async def test_a_node_that_registers_anew_is_relieved_again(bench: Bench) -> None:
    async with bench.running():
        for _ in range(2):
            bench.server.add_node(NODE, taints=[OURS])
            bench.taint.node_is_ready()
            await eventually(lambda: bench.taints == [], "the taint is removed")
