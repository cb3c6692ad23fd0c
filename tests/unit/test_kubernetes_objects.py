"""From a volume, an NQN or a claim's name to the objects on which a notice is told."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rds_csi.kubernetes.errors import Forbidden
from rds_csi.kubernetes.objects import MEMORY_SECONDS, Objects
from rds_csi.kubernetes.resources import Reference, volume_path
from rds_csi.model.notices import ClaimName, Notice, Reason
from tests.support.clock import FakeClock
from tests.support.kube_api import KubeApi

DRIVER, NODE = "rds.example.io", "node-a"
NQN = "nqn.2026-01.io.example:v1"
CLAIM = Reference("PersistentVolumeClaim", "data", "team", "uid-of-data")


def volume(name: str) -> Reference:
    return Reference("PersistentVolume", name, uid=f"uid-of-{name}")


class Bench:
    def __init__(self, server: KubeApi, objects: Objects, clock: FakeClock) -> None:
        self.server = server
        self.objects = objects
        self.clock = clock

    async def of(self, volume_id: str = "", nqn: str = "", claim: ClaimName | None = None) -> tuple[Reference, ...]:
        notice = Notice(Reason.ARRAY_FULL, "full", warning=True, volume_id=volume_id, nqn=nqn, claim=claim)
        return await self.objects.of(notice)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    server, clock = KubeApi(tmp_path), FakeClock()
    async with server.serve():
        api = server.client(clock.clock)
        yield Bench(server, Objects(api, driver_name=DRIVER, node_name=NODE, clock=clock.clock), clock)
        await api.close()


async def test_a_volume_named_like_its_persistent_volume_needs_no_list(bench: Bench) -> None:
    bench.server.add_volume("pvc-1", "pvc-1", driver=DRIVER, claim=("team", "data"))
    assert await bench.of("pvc-1") == (CLAIM, volume("pvc-1"))
    assert bench.server.used == {("get", "persistentvolumes")}


async def test_a_volume_of_another_name_is_found_in_the_list(bench: Bench) -> None:
    bench.server.page = 1
    bench.server.add_volume("a", "other", driver=DRIVER)
    bench.server.add_volume("static", "disk-7", driver=DRIVER)
    assert await bench.of("disk-7") == (volume("static"),)
    assert await bench.of("with/slash") == ()


@pytest.mark.parametrize(("driver", "volume_id"), [("another.example.io", "pvc-1"), (DRIVER, "pvc-2")])
async def test_a_persistent_volume_of_that_name_may_be_another_one(bench: Bench, driver: str, volume_id: str) -> None:
    bench.server.add_volume("pvc-1", volume_id, driver=driver)
    assert await bench.of("pvc-1") == ()
    bench.server.add_volume("static", "pvc-1", driver=DRIVER)
    bench.clock.seconds += MEMORY_SECONDS
    assert await bench.of("pvc-1") == (volume("static"),)


async def test_a_volume_is_found_by_its_nqn(bench: Bench) -> None:
    bench.server.add_volume("pvc-0", "pvc-0", driver="another.example.io", nqn=NQN)
    bench.server.add_volume("pvc-1", "pvc-1", driver=DRIVER, nqn=NQN, claim=("team", "data"))
    assert await bench.of(nqn=NQN) == (CLAIM, volume("pvc-1"))


async def test_a_volume_without_a_claim_is_told_alone(bench: Bench) -> None:
    bench.server.add_volume("pvc-1", "pvc-1", driver=DRIVER)
    assert await bench.of("pvc-1") == (volume("pvc-1"),)


async def test_what_was_found_is_remembered_for_a_while(bench: Bench) -> None:
    bench.server.add_volume("pvc-1", "pvc-1", driver=DRIVER)
    for _ in range(3):
        await bench.of("pvc-1")
        await bench.of("pvc-2")
    assert len(bench.server.asked) == 3
    del bench.server.objects[volume_path("pvc-1")]
    bench.clock.seconds += MEMORY_SECONDS
    assert await bench.of("pvc-1") == ()


async def test_a_claim_of_a_volume_to_be_is_found_by_its_name(bench: Bench) -> None:
    bench.server.add_claim("team", "data")
    assert await bench.of(claim=ClaimName("team", "data")) == (CLAIM,)
    assert await bench.of(claim=ClaimName("team", "gone")) == ()
    assert bench.server.used == {("get", "persistentvolumeclaims")}


async def test_a_claim_that_may_not_be_read_is_told_by_its_name_alone(bench: Bench) -> None:
    bench.server.forbidden = {("get", "persistentvolumeclaims")}
    assert await bench.of(claim=ClaimName("team", "data")) == (Reference("PersistentVolumeClaim", "data", "team"),)


async def test_a_volume_that_may_not_be_read_is_an_error(bench: Bench) -> None:
    bench.server.forbidden = {("get", "persistentvolumes")}
    with pytest.raises(Forbidden):
        await bench.of("pvc-1")


@pytest.mark.parametrize(("named", "told"), [("", NODE), ("node-b", "node-b")])
async def test_a_notice_of_a_node_asks_nothing(bench: Bench, named: str, told: str) -> None:
    notice = Notice(Reason.DUPLICATE_HOST_IDENTITY, "twice", warning=True, volume_id="pvc-1", node=named)
    assert await bench.objects.of(notice) == (Reference("Node", told, uid=told),)
    assert bench.server.asked == []


@pytest.mark.parametrize(
    ("parameters", "claim"),
    [
        (
            {"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "team"},
            ClaimName("team", "data"),
        ),
        ({"csi.storage.k8s.io/pvc/name": "data"}, None),
        ({}, None),
    ],
)
def test_a_claim_is_read_from_the_parameters(parameters: dict[str, str], claim: ClaimName | None) -> None:
    assert ClaimName.from_parameters(parameters) == claim
