"""Registration: the kubelet finds the driver, again and again, and a person sees why when it does not."""

import asyncio
import logging
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rds_csi.csi import v1 as csi
from rds_csi.errors import ConfigurationError
from rds_csi.metrics import Metrics
from rds_csi.rpc.registration import RENEW_SECONDS, Registration
from rds_csi.rpc.server import CsiServer
from tests.support.clock import FakeClock
from tests.support.kubelet import Kubelet, Plugin
from tests.support.rpc import Identity, Node, eventually, open_descriptors

NAME = "rds.csi.example.org"
SOCKET = f"{NAME}-reg.sock"
NOT_YET = "the kubelet has not registered the driver yet"


class NamedNode(Node):
    """A node that the kubelet can ask who it is."""

    async def node_get_info(self, request: csi.NodeGetInfoRequest) -> csi.NodeGetInfoResponse:
        return csi.NodeGetInfoResponse(node_id="node-1")


class Bench:
    """A kubelet's directory, a CSI socket and a registration of it, which is not started."""

    def __init__(self, home: Path) -> None:
        self.directory = home / "plugins_registry"
        self.directory.mkdir()
        self.kubelet = Kubelet(self.directory)
        self.clock = FakeClock()
        self.csi_path = home / "csi.sock"
        self.path = self.directory / SOCKET
        self.registration = self.another()

    def another(self) -> Registration:
        """A registration of the same driver, by another process."""
        return Registration(str(self.directory), NAME, f"unix://{self.csi_path}", Metrics(), clock=self.clock.clock)

    @property
    def taken(self) -> Plugin | None:
        """What the kubelet has taken of the driver."""
        return self.kubelet.plugins.get(SOCKET)

    async def wait_in_vain(self, seconds: float) -> None:
        """Let the time pass and look."""
        self.clock.seconds += seconds
        await self.registration.look()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    # pytest's own directories have paths that are too long for a socket.
    with tempfile.TemporaryDirectory(prefix="rds-csi-") as home:
        bench = Bench(Path(home))
        server = CsiServer(f"unix://{bench.csi_path}", [Identity(), NamedNode()], Metrics())
        await server.start()
        yield bench
        await bench.registration.close()
        await server.drain(0)


@asynccontextmanager
async def running(registration: Registration) -> AsyncIterator[None]:
    task = asyncio.create_task(registration.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_kubelet_takes_the_driver_once_it_has_started(bench: Bench) -> None:
    await bench.kubelet.look()
    assert (bench.taken, bench.kubelet.asked) == (None, 0)
    assert await bench.registration.problem() == NOT_YET
    await bench.registration.start()
    await bench.kubelet.look()
    assert bench.taken == Plugin(NAME, "node-1", str(bench.csi_path))
    assert await bench.registration.problem() == ""


async def test_close_removes_the_socket_for_good_and_the_kubelet_forgets_the_driver(bench: Bench) -> None:
    before = open_descriptors()
    await bench.registration.start()
    await bench.kubelet.look()
    await bench.registration.close()
    await bench.kubelet.look()
    assert bench.taken is None
    await bench.registration.look()
    await bench.registration.close()
    assert list(bench.directory.iterdir()) == []
    await eventually(lambda: open_descriptors() <= before, "nothing is left open")


async def test_a_socket_that_is_just_being_made_does_not_outlive_close(bench: Bench) -> None:
    await bench.registration.start()
    bench.path.unlink()
    await asyncio.gather(bench.registration.look(), bench.registration.close())
    assert list(bench.directory.iterdir()) == []


async def test_the_socket_of_a_killed_predecessor_is_replaced(bench: Bench) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(bench.path))
        dead.listen()
    await bench.registration.start()
    await bench.kubelet.look()
    assert bench.taken is not None


async def test_another_program_that_registers_the_driver_is_left_alone_and_told(bench: Bench) -> None:
    await bench.registration.start()
    with pytest.raises(ConfigurationError, match=r"another program answers on .*-reg.sock. --kubelet-registration-dir"):
        await bench.another().start()
    await bench.kubelet.look()
    assert bench.taken is not None


async def test_a_directory_that_is_none_is_told_and_not_made(bench: Bench) -> None:
    bench.directory.rmdir()
    with pytest.raises(ConfigurationError, match=r"plugins_registry is no directory"):
        await bench.registration.start()
    assert not bench.directory.exists()


@pytest.mark.parametrize("directory", ["/" + "k" * 90, "plugins_registry"])
def test_a_path_that_is_none_for_a_socket_is_told_at_once(directory: str) -> None:
    with pytest.raises(ConfigurationError, match="absolute path; all of it has at most 107 bytes"):
        Registration(directory, NAME, "unix:///csi.sock", Metrics())


async def test_in_a_directory_that_was_emptied_the_socket_is_made_again(bench: Bench) -> None:
    await bench.registration.start()
    await bench.kubelet.look()
    bench.path.unlink()
    await bench.kubelet.look()
    assert not bench.kubelet.plugins
    await bench.registration.look()
    assert await bench.registration.problem() == NOT_YET
    await bench.kubelet.look()
    assert bench.taken is not None
    assert await bench.registration.problem() == ""


async def test_a_restarted_kubelet_finds_the_same_socket_and_that_is_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.registration.start()
    made = os.lstat(bench.path).st_ino
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            await bench.kubelet.look()
            bench.kubelet.restart()
    await bench.registration.look()
    assert os.lstat(bench.path).st_ino == made
    assert [record.getMessage() for record in caplog.records].count("registered with the kubelet") == 2


async def test_a_refusal_is_told_in_the_kubelets_words_and_logged_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.kubelet.refusal = "node\nnot known"
    await bench.registration.start()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await bench.kubelet.look()
    assert await bench.registration.problem() == "the kubelet refused the registration: node\\nnot known"
    assert [record.__dict__["fields"] for record in caplog.records] == [{"error": "node\\nnot known"}]
    bench.kubelet.refusal = ""
    await bench.kubelet.look()
    assert await bench.registration.problem() == ""


async def test_what_the_kubelet_cannot_reach_it_refuses(bench: Bench) -> None:
    await bench.registration.start()
    bench.csi_path.unlink()
    await bench.kubelet.look()
    assert "No such file" in await bench.registration.problem()


async def test_a_kubelet_that_does_not_confirm_gets_a_new_socket_after_a_while(bench: Bench) -> None:
    await bench.registration.start()
    first = os.lstat(bench.path)
    await bench.wait_in_vain(RENEW_SECONDS - 1)
    assert os.lstat(bench.path).st_ctime_ns == first.st_ctime_ns
    await bench.wait_in_vain(1)
    second = os.lstat(bench.path)
    assert second.st_ctime_ns != first.st_ctime_ns
    await bench.kubelet.look()
    await bench.wait_in_vain(10 * RENEW_SECONDS)
    assert os.lstat(bench.path).st_ctime_ns == second.st_ctime_ns


async def test_an_obstacle_is_told_once_and_overcome_when_it_is_gone(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.registration.start()
    bench.path.unlink()
    bench.directory.rmdir()
    with caplog.at_level(logging.WARNING):
        async with running(bench.registration):
            await eventually(lambda: len(bench.clock.pauses) > 5, "it was tried several times")
            assert "plugins_registry is no directory" in await bench.registration.problem()
            bench.directory.mkdir()
            await eventually(bench.path.exists, "the socket is there again")
            await eventually(lambda: not bench.registration._obstacle, "the obstacle is forgotten")
    assert [record.getMessage() for record in caplog.records] == ["cannot register with the kubelet"]


async def test_a_socket_that_somebody_else_has_put_there_is_left_alone(bench: Bench) -> None:
    await bench.registration.start()
    bench.path.unlink()
    other = bench.another()
    await other.start()
    with pytest.raises(ConfigurationError, match="another program answers"):
        await bench.registration.look()
    await bench.registration.close()
    assert bench.path.exists()
    await other.close()
