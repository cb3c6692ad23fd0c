"""What VolumeAttachments tell of volumes that moved, and of this node's."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rds_csi.kubernetes.attachments import Attachments
from rds_csi.kubernetes.resources import VOLUME_ATTACHMENTS, node_path, volume_path
from tests.support.kube_api import Fault, KubeApi, Status
from tests.support.rpc import eventually

DRIVER, HERE, THERE = "rds.example.io", "node-a", "node-b"
PREFIX = "nqn.2026-01.io.example:"


def attachment_path(volume: str, node: str) -> str:
    return f"{VOLUME_ATTACHMENTS}/csi-{volume}-{node}"


class Bench:
    def __init__(self, server: KubeApi, attachments: Attachments) -> None:
        self.server = server
        self.attachments = attachments

    def volume(self, name: str, *nodes: str, nqn: str = "", attached: bool = True) -> None:
        """A volume that is attached to the nodes."""
        self.server.add_volume(name, name, driver=DRIVER, nqn=nqn or f"{PREFIX}{name}")
        for node in nodes:
            self.server.attach(name, node, driver=DRIVER, attached=attached)

    async def moved(self) -> set[str]:
        return {nqn.removeprefix(PREFIX) for nqn in await self.attachments.moved()}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    server = KubeApi(tmp_path)
    server.add_node(HERE)
    async with server.serve():
        api = server.client()
        yield Bench(server, Attachments(api, driver_name=DRIVER, node_name=HERE))
        await api.close()


async def test_what_is_attached_elsewhere_and_not_here_has_moved(bench: Bench) -> None:
    bench.volume("v1", THERE)
    bench.volume("v2", HERE)
    bench.volume("v3", HERE, THERE)
    bench.volume("v4")
    bench.volume("v5", THERE, "node-c")
    assert await bench.moved() == {"v1", "v5"}


async def test_a_volume_that_is_only_to_be_attached_elsewhere_has_not_moved(bench: Bench) -> None:
    bench.volume("v1", THERE, attached=False)
    assert await bench.moved() == set()


async def test_a_volume_that_is_being_attached_here_has_not_moved(bench: Bench) -> None:
    bench.volume("v1", THERE)
    bench.server.attach("v1", HERE, driver=DRIVER, attached=False)
    assert await bench.moved() == set()


async def test_the_attachments_of_other_drivers_do_not_count(bench: Bench) -> None:
    bench.volume("v1")
    bench.server.attach("v1", THERE, driver="another.example.io")
    assert await bench.moved() == set()
    assert await bench.attachments.here() == []


async def test_two_persistent_volumes_of_one_volume_are_one(bench: Bench) -> None:
    bench.volume("v1", THERE)
    bench.volume("v1-again", HERE, nqn=f"{PREFIX}v1")
    assert await bench.moved() == set()


async def test_an_unknown_volume_that_is_here_could_be_any_of_them(bench: Bench) -> None:
    bench.volume("v1", THERE)
    bench.volume("v2", HERE)
    del bench.server.objects[volume_path("v2")]
    assert await bench.moved() == set()


async def test_a_volume_here_without_an_nqn_could_be_any_of_them(bench: Bench) -> None:
    bench.volume("v1", THERE)
    # What ControllerPublish told of it is known to the node alone.
    bench.server.add_volume("v1-by-hand", "v1", driver=DRIVER)
    bench.server.attach("v1-by-hand", HERE, driver=DRIVER)
    assert await bench.moved() == set()


async def test_under_a_name_that_is_no_nodes_nothing_has_moved(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    # A host name where the Node has a longer one: everything that is here looks as if it were elsewhere.
    bench.volume("v1", THERE)
    del bench.server.objects[node_path(HERE)]
    for _ in range(2):
        assert await bench.moved() == set()
    (record,) = caplog.records
    assert "there is no Node node-a" in record.getMessage()
    assert "--node-id" in record.getMessage()


@pytest.mark.parametrize("seen_by", ["attachment", "node"])
async def test_a_node_that_was_known_and_is_deleted_has_lost_its_volumes(bench: Bench, seen_by: str) -> None:
    bench.volume("v1", THERE)
    bench.volume("v2", HERE)
    if seen_by == "node":
        del bench.server.objects[attachment_path("v2", HERE)]
        bench.server.attach("v2", THERE, driver=DRIVER)
    else:
        del bench.server.objects[node_path(HERE)]
    assert "v1" in await bench.moved()
    bench.server.objects.pop(node_path(HERE), None)
    bench.server.objects.pop(attachment_path("v2", HERE), None)
    bench.server.attach("v2", THERE, driver=DRIVER, uid="anew")
    assert await bench.moved() == {"v1", "v2"}


async def test_a_page_that_is_no_list_moves_nothing(bench: Bench) -> None:
    # In the order of the server: what is here comes on the second page.
    bench.volume("v1", THERE)
    bench.volume("v2", HERE, nqn=f"{PREFIX}v1")
    bench.server.page = 1
    assert await bench.moved() == set()
    bench.server.faults = [None, Fault.EMPTY_OBJECT]
    assert await bench.moved() == set()


async def test_an_answer_that_nobody_expects_does_not_stop_the_sweep(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    # Half of a pair of UTF-16, which JSON can name and no path can have.
    bench.server.attach("\ud800", THERE, driver=DRIVER)
    assert await bench.moved() == set()
    assert "could not be read" in caplog.text


async def test_an_unknown_volume_elsewhere_is_left_out(bench: Bench) -> None:
    bench.volume("v1", THERE)
    bench.volume("v2", THERE)
    del bench.server.objects[volume_path("v2")]
    assert await bench.moved() == {"v1"}


async def test_a_volume_without_an_nqn_is_left_out(bench: Bench) -> None:
    bench.server.add_volume("v1", "v1", driver=DRIVER)
    bench.server.attach("v1", THERE, driver=DRIVER)
    assert await bench.attachments.moved() == frozenset()


@pytest.mark.parametrize("fault", [Status(500), Status(403), Fault.CUT, Fault.GARBAGE])
@pytest.mark.parametrize("healthy", [0, 1])
async def test_a_cluster_that_does_not_tell_moves_nothing(bench: Bench, fault: Fault | Status, healthy: int) -> None:
    bench.volume("v1", THERE)
    assert await bench.moved() == {"v1"}
    bench.volume("v2", THERE)
    bench.server.faults = [*[None] * healthy, fault]
    assert await bench.moved() == set()
    assert await bench.moved() == {"v1", "v2"}


async def test_a_volume_is_looked_up_once_for_each_attachment(bench: Bench) -> None:
    bench.volume("v1", THERE)
    bench.volume("v2", HERE)
    for _ in range(3):
        await bench.moved()
    assert bench.server.count("get", "persistentvolumes") == 2
    # The volume was made anew under its name, and attached anew.
    bench.server.add_volume("v1", "v1", driver=DRIVER, nqn=f"{PREFIX}other")
    bench.server.attach("v1", THERE, driver=DRIVER, uid="another")
    assert await bench.moved() == {"other"}


async def test_what_a_look_has_learned_is_not_asked_again_when_it_broke_off(bench: Bench) -> None:
    for name in ("v1", "v2", "v3"):
        bench.volume(name, THERE)
    # The attachments, the Node, two of the three volumes.
    bench.server.faults = [None, None, None, None, Status(500)]
    assert await bench.moved() == set()
    assert await bench.moved() == {"v1", "v2", "v3"}
    assert bench.server.count("get", "persistentvolumes") == 3


async def test_many_new_volumes_are_listed_at_once(bench: Bench) -> None:
    for number in range(50):
        bench.volume(f"v{number}", THERE)
    assert len(await bench.moved()) == 50
    assert bench.server.used == {("list", "volumeattachments"), ("get", "nodes"), ("list", "persistentvolumes")}
    assert len(bench.server.asked) == 3
    # That the name is a Node's is seen once.
    await bench.moved()
    assert bench.server.count("get", "nodes") == 1


async def test_a_cluster_in_which_nothing_is_elsewhere_costs_one_list(bench: Bench) -> None:
    bench.volume("v1", HERE)
    assert await bench.moved() == set()
    assert bench.server.used == {("list", "volumeattachments")}


async def test_callers_that_come_together_share_a_look_that_is_younger_than_their_question(bench: Bench) -> None:
    bench.volume("v1", THERE)
    first = asyncio.create_task(bench.attachments.moved())
    await eventually(lambda: bool(bench.server.asked), "it is asked")
    # The first look has begun: it may have missed this.
    bench.server.attach("v1", HERE, driver=DRIVER)
    rest = await asyncio.gather(*(bench.attachments.moved() for _ in range(5)))
    await first
    assert set(rest) == {frozenset()}
    assert bench.server.count("list", "volumeattachments") == 2


async def test_a_caller_that_goes_away_leaves_the_next_one_its_look(bench: Bench) -> None:
    bench.volume("v1", THERE)
    bench.server.faults = [Fault.HANG]
    task = asyncio.create_task(bench.attachments.moved())
    waiting = asyncio.create_task(bench.attachments.moved())
    await eventually(lambda: not bench.server.faults, "it is asked")
    task.cancel()
    assert await waiting == {f"{PREFIX}v1"}


async def test_the_attachments_of_this_node_are_told_attached_or_not(bench: Bench) -> None:
    bench.volume("v1", HERE)
    bench.volume("v2", HERE, attached=False)
    bench.volume("v3", THERE)
    assert [(item.volume, item.attached) for item in await bench.attachments.here()] == [("v1", True), ("v2", False)]
