"""What a session that is there means for a wish to connect: used, waited for, joined, or made anew."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rds_csi.connectors.nvme_look import Standing, judge, lacking
from rds_csi.errors import FailedPrecondition, Unavailable
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.identity import HostIdentity
from rds_csi.nvme.sessions import Controller, Session
from tests.support.nvme_bench import CONFIG, NQN, TARGET, UUID, NvmeBench
from tests.support.nvme_tree import HOSTID, HOSTNQN

Left = Callable[[NvmeBench], None]

IDENTITY = HostIdentity(HOSTNQN, HOSTID)
ADDRESSES = ("192.0.2.1",)


def path(
    state: str, *, name: str = "nvme0", traddr: str = "192.0.2.1", hostnqn: str = HOSTNQN, port: str = "4420"
) -> Controller:
    return Controller(name, state, "tcp", traddr, port, hostnqn=hostnqn, hostid=HOSTID)


def session(*controllers: Controller) -> Session:
    return Session(NQN, "nvme-subsys0", controllers)


@pytest.fixture(params=["nvme-cli", "fabrics"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> NvmeBench:
    made = NvmeBench(tmp_path, link=request.param)
    made.runner.on(*made.connect_program, effect=made.export())
    made.let_disconnect()
    return made


@pytest.mark.parametrize(
    ("controllers", "standing"),
    [
        ((), Standing.ABSENT),
        ((path("live"),), Standing.USABLE),
        ((path("live", traddr="192.0.2.99"),), Standing.USABLE),
        ((path("live", hostnqn=""),), Standing.USABLE),
        ((path("connecting"),), Standing.COMING),
        ((path("new"),), Standing.COMING),
        ((path("resetting"),), Standing.COMING),
        ((path("connecting"), path("live", name="nvme1", traddr="192.0.2.2")), Standing.USABLE),
        ((path("connecting", traddr="192.0.2.9"), path("connecting", name="nvme1")), Standing.COMING),
        ((path("connecting", traddr="192.0.2.9"),), Standing.MOVED),
        ((path("connecting", port="4421"),), Standing.MOVED),
        ((path("deleting"),), Standing.LEAVING),
        ((path("deleting (no IO)"), path("deleting", name="nvme1")), Standing.LEAVING),
        ((path("deleting"), path("live", name="nvme1")), Standing.USABLE),
        ((path("deleting", hostnqn="nqn.2026-01.io.example:other"),), Standing.LEAVING),
        ((path("dead"),), Standing.STALE),
        ((path("something new"),), Standing.STALE),
        ((path("live", hostnqn="nqn.2026-01.io.example:other"),), Standing.STALE),
        ((path("live", hostnqn="nqn.2026-01.io.example:other"), path("live", name="nvme1")), Standing.USABLE),
    ],
)
def test_a_session_stands_in_one_way(controllers: tuple[Controller, ...], standing: Standing) -> None:
    assert judge(session(*controllers), TARGET, IDENTITY, ADDRESSES).standing is standing


def test_what_is_wrong_with_a_session_is_told() -> None:
    strange = judge(session(path("live", hostnqn="nqn.2026-01.io.example:other")), TARGET, IDENTITY, ADDRESSES)
    assert strange.why == "it was connected under another host identity, nqn.2026-01.io.example:other"
    moved_away = judge(session(path("connecting", traddr="192.0.2.9")), TARGET, IDENTITY, ADDRESSES)
    assert moved_away.why == "the kernel looks for the array at 192.0.2.9:4420, and it is at 192.0.2.1:4420"
    assert "has given it up: nvme0 (192.0.2.1:4420) dead" in judge(session(path("dead")), TARGET, IDENTITY).why


def test_a_session_whose_target_has_no_address_just_now_is_waited_for() -> None:
    assert judge(session(path("connecting", traddr="192.0.2.9")), TARGET, IDENTITY, ()).standing is Standing.COMING


def test_what_a_session_lacks_is_told_by_address_and_port() -> None:
    there = session(
        path("live"),
        path("connecting", name="nvme1", traddr="2001:DB8:0::1"),
        path("deleting", name="nvme2", traddr="192.0.2.3"),
        path("live", name="nvme3", traddr="192.0.2.4", port="8009"),
    )
    addresses = ("192.0.2.1", "2001:db8::1", "192.0.2.3", "192.0.2.4")
    assert lacking(there, addresses, 4420) == ("192.0.2.3", "192.0.2.4")
    assert lacking(None, addresses, 4420) == addresses


def other_host(bench: NvmeBench) -> None:
    number = bench.tree.add_session(NQN)
    bench.tree.add_namespace(number, uuid=UUID)
    bench.tree.path("sys/class/nvme/nvme0/hostnqn").write_text("nqn.2026-01.io.example:other\n")


def moved(bench: NvmeBench) -> None:
    bench.tree.add_namespace(bench.tree.add_session(NQN, state="connecting", traddr="192.0.2.9"), uuid=UUID)


def dead(bench: NvmeBench) -> None:
    bench.tree.add_namespace(bench.tree.add_session(NQN, state="dead"), uuid=UUID)


def empty(bench: NvmeBench) -> None:
    bench.tree.add_session(NQN)


@pytest.mark.parametrize("left", [other_host, moved, dead, empty], ids=lambda left: left.__name__)
async def test_a_useless_session_that_nobody_uses_is_made_anew(bench: NvmeBench, left: Left) -> None:
    left(bench)
    connected = await bench.connector.connect(TARGET, CONFIG)
    assert connected.created
    assert (bench.disconnects, bench.connects) == (1, 1)
    assert (await bench.connector.find(TARGET)) == connected.device


@pytest.mark.parametrize("left", [other_host, dead], ids=lambda left: left.__name__)
async def test_a_useless_session_with_a_user_stays(bench: NvmeBench, left: Left) -> None:
    left(bench)
    bench.tree.nodes.claimed.add(f"{bench.tree.host.dev}/nvme0n1")
    with pytest.raises(FailedPrecondition, match=r"is of no use: .*It stays, because .*Delete the pods"):
        await bench.connector.connect(TARGET, CONFIG)
    assert bench.runner.calls == []


async def test_a_session_that_lost_its_namespace_under_a_mount_stays(bench: NvmeBench) -> None:
    bench.tree.add_session(NQN)
    bench.tree.path("proc/self/mountinfo").write_text("36 35 259:1 / /mnt rw - ext4 /dev/nvme0n1 rw\n")
    with pytest.raises(FailedPrecondition, match="vanished device /dev/nvme0n1 is still mounted at /mnt"):
        await bench.connector.connect(TARGET, CONFIG)
    assert bench.runner.calls == []


async def test_the_new_portal_joins_a_moved_session_that_is_in_use(bench: NvmeBench) -> None:
    moved(bench)
    bench.tree.nodes.claimed.add(f"{bench.tree.host.dev}/nvme0n1")
    connected = await bench.connector.connect(TARGET, CONFIG)
    assert not connected.created
    assert (bench.disconnects, bench.connects) == (0, 1)


async def test_a_moved_session_in_use_stays_where_paths_are_not_joined(tmp_path: Path) -> None:
    bench = NvmeBench(tmp_path, multipath=False)
    moved(bench)
    bench.tree.nodes.claimed.add(f"{bench.tree.host.dev}/nvme0n1")
    with pytest.raises(FailedPrecondition, match=r"looks for the array at 192.0.2.9:4420, and it is at 192.0.2.1:4420"):
        await bench.connector.connect(TARGET, CONFIG)
    assert bench.runner.calls == []


@pytest.mark.parametrize("left", [other_host, dead], ids=lambda left: left.__name__)
async def test_an_attempt_never_takes_away_what_a_raw_block_volume_may_use(bench: NvmeBench, left: Left) -> None:
    left(bench)
    with pytest.raises(FailedPrecondition, match=r"is of no use: .*It stays, because .*raw block.*Delete the pods"):
        await bench.connector.attempt(TARGET, CONFIG)
    assert bench.runner.calls == []


async def test_an_attempt_joins_the_new_portal_to_a_moved_session(bench: NvmeBench) -> None:
    moved(bench)
    await bench.connector.attempt(TARGET, CONFIG)
    assert (bench.disconnects, bench.connects) == (0, 1)


async def test_an_attempt_leaves_a_moved_session_where_paths_are_not_joined(tmp_path: Path) -> None:
    bench = NvmeBench(tmp_path, multipath=False)
    moved(bench)
    await bench.connector.attempt(TARGET, CONFIG)
    assert bench.runner.calls == []


@pytest.mark.parametrize("multipath", [True, False])
@pytest.mark.parametrize(("state", "traddr"), [("dead", "192.0.2.1"), ("connecting", "192.0.2.9")])
async def test_an_attempt_makes_a_useless_session_without_namespaces_anew(
    tmp_path: Path, multipath: bool, state: str, traddr: str
) -> None:
    bench = NvmeBench(tmp_path, multipath=multipath)
    bench.tree.add_session(NQN, state=state, traddr=traddr)
    bench.runner.on(*bench.connect_program, effect=bench.export())
    bench.let_disconnect()
    await bench.connector.attempt(TARGET, CONFIG)
    assert (bench.disconnects, bench.connects) == (1, 1)


async def test_a_session_on_its_way_is_joined_through_a_portal_that_is_up(bench: NvmeBench) -> None:
    bench.tree.add_namespace(bench.tree.add_session(NQN, state="connecting"), uuid=UUID)
    target = NvmeTarget(NQN, ("192.0.2.1", "192.0.2.2"), 4420, UUID)
    connected = await bench.connector.connect(target, CONFIG)
    assert not connected.created
    assert bench.connects == 1
    assert bench.clock.seconds == 0


async def test_a_namespace_that_shows_late_in_a_session_of_others_is_waited_for(bench: NvmeBench) -> None:
    number = bench.tree.add_session(NQN)
    bench.clock.at_first_pause = lambda: bench.tree.add_namespace(number, uuid=UUID)
    assert not (await bench.connector.connect(TARGET, CONFIG)).created
    assert bench.runner.calls == []


async def test_a_session_that_shows_no_namespace_again_is_undone(bench: NvmeBench) -> None:
    bench.runner.rules.clear()
    bench.runner.on(*bench.connect_program, effect=bench.export(namespace=False))
    bench.let_disconnect()
    bench.tree.add_session(NQN)
    with pytest.raises(Unavailable, match="no device"):
        await bench.connector.connect(TARGET, CONFIG)
    assert await bench.connector.resolver.session(NQN) is None
    # Made anew once, not for ever.
    assert bench.connects == 1
