"""``rds-csi pre-stop``: says why it waits, and never fails."""

import functools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rds_csi.commands.pre_stop import pre_stop
from rds_csi.kubernetes.cluster import Cluster, open_cluster
from rds_csi.kubernetes.draining import Tell
from rds_csi.settings import load_settings
from tests.support.kube_api import KubeApi, Status

DRIVER, NODE = "rds.example.io", "node-a"
SETTINGS = load_settings({"driver_name": DRIVER, "node_id": NODE})


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeApi]:
    server = KubeApi(tmp_path)
    async with server.serve():
        yield server


async def run(server: KubeApi, timeout: float) -> int:
    opening = functools.partial(open_cluster, root=str(server.root), environment=server.environment)
    return await pre_stop(SETTINGS, timeout, open_=opening)


async def test_outside_of_a_cluster_nothing_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert await pre_stop(SETTINGS, 60.0, open_=lambda _: None) == 0
    assert capsys.readouterr().out == "this is no pod of a cluster: nothing to wait for\n"


async def test_a_node_that_stays_is_not_waited_for(server: KubeApi, capsys: pytest.CaptureFixture[str]) -> None:
    server.add_node(NODE)
    server.attach("pv-1", NODE, driver=DRIVER)
    assert await run(server, 60.0) == 0
    assert capsys.readouterr().out == "node node-a is not being drained: nothing to wait for\n"


async def test_a_drained_node_is_waited_for_at_most_its_time(
    server: KubeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add_node(NODE, unschedulable=True)
    server.attach("pv-1", NODE, driver=DRIVER)
    assert await run(server, 0.1) == 0
    assert capsys.readouterr().out.splitlines() == [
        "node node-a is being drained (it is unschedulable): waiting for pv-1 to be detached",
        "no longer waited for",
    ]


async def test_an_api_server_that_refuses_is_no_failure(server: KubeApi, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults = [Status(403)] * 10
    assert await run(server, 0.1) == 0
    assert "cannot be looked at" in capsys.readouterr().out


async def test_whatever_breaks_is_told_and_no_failure(server: KubeApi, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Cluster):
        async def wait_for_detach(self, timeout: float, tell: Tell = print) -> None:
            raise RuntimeError("it broke")

    assert await pre_stop(SETTINGS, 1.0, open_=lambda _: Broken(server.client(), driver_name="d", node_name="n")) == 0
    assert capsys.readouterr().out == "not waited for: RuntimeError: it broke\n"
