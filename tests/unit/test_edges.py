"""The edges of a server together: the start-up taint goes when the kubelet has the driver, each time that it does."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rds_csi.csi import v1 as csi
from rds_csi.edges import Edges
from rds_csi.kubernetes.cluster import Cluster
from rds_csi.kubernetes.resources import node_path
from rds_csi.metrics import Metrics
from rds_csi.rpc.server import CsiServer
from rds_csi.settings import load_settings
from tests.support.clock import FakeClock
from tests.support.kube_api import KubeApi
from tests.support.kubelet import Kubelet
from tests.support.rpc import Identity, Node, eventually

DRIVER, NODE = "rds.example.io", "node-a"
TAINT = {"key": f"{DRIVER}/agent-not-ready", "effect": "NoSchedule"}


class NamedNode(Node):
    """A node that the kubelet can ask who it is."""

    async def node_get_info(self, request: csi.NodeGetInfoRequest) -> csi.NodeGetInfoResponse:
        return csi.NodeGetInfoResponse(node_id=NODE)


async def no_operations() -> object:
    return []


class Bench:
    """A kubelet, an API server with a tainted Node, and the edges of a node's server beside its CSI socket."""

    def __init__(self, home: Path) -> None:
        (home / "plugins_registry").mkdir()
        self.kubelet = Kubelet(home / "plugins_registry")
        self.api = KubeApi(home)
        self.register_node()
        self.is_broken = False
        self.settings = load_settings(
            {
                "driver_name": DRIVER,
                "node_id": NODE,
                "endpoint": f"unix://{home}/csi.sock",
                "kubelet_registration_dir": str(home / "plugins_registry"),
                "state_dir": str(home / "state"),
                "http_endpoint": "",
            }
        )

    def register_node(self) -> None:
        """As a kubelet does that has --register-with-taints."""
        self.api.add_node(NODE, taints=[TAINT])

    async def problem(self) -> str:
        """What the node lacks: nothing, or that cannot be found out."""
        if self.is_broken:
            raise RuntimeError("can't start new thread")
        return ""

    @property
    def taints(self) -> object:
        return self.api.objects[node_path(NODE)]["spec"]["taints"]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    # pytest's own directories have paths that are too long for a socket.
    with tempfile.TemporaryDirectory(prefix="rds-csi-") as home:
        bench, clock, metrics = Bench(Path(home)), FakeClock(), Metrics()
        server = CsiServer(bench.settings.endpoint, [Identity(), NamedNode()], metrics)
        async with bench.api.serve():
            cluster = Cluster(bench.api.client(), driver_name=DRIVER, node_name=NODE)
            edges = Edges(
                bench.settings,
                metrics,
                is_node=True,
                cluster=cluster,
                problem=bench.problem,
                operations=no_operations,
                clock=clock.clock,
            )
            await edges.open()
            await server.start()
            await edges.serve()
            task = asyncio.create_task(edges.run())
            yield bench
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await edges.close()
            await server.drain(0)


async def test_the_taint_stays_until_the_kubelet_has_the_driver(bench: Bench) -> None:
    for _ in range(20):
        await asyncio.sleep(0)
    assert bench.taints == [TAINT]
    assert bench.api.asked == []
    await bench.kubelet.look()
    await eventually(lambda: bench.taints == [], "the taint is gone")


async def test_a_node_that_registers_anew_loses_its_taint_again(bench: Bench) -> None:
    await bench.kubelet.look()
    await eventually(lambda: bench.taints == [], "the taint is gone")
    for _ in range(2):
        # Somebody has deleted the Node, and the kubelet is started again before the pod goes.
        bench.register_node()
        bench.kubelet.restart()
        await bench.kubelet.look()
        await eventually(lambda: bench.taints == [], "the taint of the new Node is gone")


async def test_a_look_at_the_node_that_fails_does_not_end_the_server(bench: Bench) -> None:
    bench.is_broken = True
    await bench.kubelet.look()
    for _ in range(20):
        await asyncio.sleep(0)
    assert bench.taints == [TAINT]
    bench.is_broken = False
    await eventually(lambda: bench.taints == [], "the taint is gone")
