"""The decision about each subsystem: every rule, and a thousand made-up hosts on which nothing used is disconnected."""

import asyncio
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_csi.errors import ConfigurationError
from rds_csi.model.devices import DeviceNumber
from rds_csi.nvme.decision import HANG_SECONDS
from rds_csi.nvme.orphans import Decision, Hang, Kind, Sighting, Snapshot, Verdict, decide
from rds_csi.nvme.sessions import Controller, Namespace, Session, SessionIndex
from tests.support.sweep_host import INIT, PREFIX, SweepHost, record_of

NQN = f"{PREFIX}v0"
GRACE = 60.0
NOW = 1000.0


def session(*states: str, devices: int = 1, nqn: str = NQN, transport: str = "tcp", cntrltype: str = "io") -> Session:
    return Session(
        nqn,
        "nvme-subsys0",
        tuple(Controller(f"nvme{n}", state, transport, cntrltype=cntrltype) for n, state in enumerate(states)),
        tuple(Namespace(f"nvme0n{n}", n, DeviceNumber(259, n), 1 << 30) for n in range(1, devices + 1)),
    )


def snapshot(*sessions: Session, grace: float = 0.0) -> Snapshot:
    by_nqn: dict[str, list[Session]] = {}
    for item in sessions:
        by_nqn.setdefault(item.nqn, []).append(item)
    return Snapshot(SessionIndex(by_nqn), PREFIX, NOW, grace)


def verdict(of: Snapshot) -> Verdict:
    (found,) = decide(of)
    assert found.reason.endswith(".")
    return found


def seen(item: Session, kind: Kind, at: float) -> dict[Sighting, float]:
    return {Sighting(item.nqn, item.subsystem, tuple(c.name for c in item.controllers), kind): at}


AWAY = session("connecting")
DEAD = session("dead")
EMPTY = session("live", devices=0)
WELL = session("live")


def test_an_empty_prefix_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        decide(replace(snapshot(AWAY), prefix=""))


@pytest.mark.parametrize(
    "nqn",
    [
        "nqn.2000-02.com.mikrotik:nixos-var",
        f"x{NQN}",
        NQN.upper(),
        PREFIX[:-1],
        "nqn.2014-08.org.nvmexpress.discovery",
        f"\udcff{NQN}",
    ],
)
def test_another_prefix_is_foreign(nqn: str) -> None:
    assert verdict(snapshot(session("dead", nqn=nqn))).decision is Decision.FOREIGN


def test_the_prefix_alone_is_a_name_too() -> None:
    assert verdict(snapshot(session("dead", nqn=PREFIX))).decision is Decision.DISCONNECT


@pytest.mark.parametrize("transport", ["pcie", "rdma", "fc", "loop"])
def test_another_transport_is_foreign(transport: str) -> None:
    found = verdict(snapshot(session("dead", transport=transport)))
    assert found.decision is Decision.FOREIGN
    assert transport in found.reason


def test_one_path_of_another_transport_makes_it_foreign() -> None:
    mixed = session("dead", "dead")
    mixed = replace(mixed, controllers=(mixed.controllers[0], replace(mixed.controllers[1], transport="rdma")))
    assert verdict(snapshot(mixed)).decision is Decision.FOREIGN


def test_a_discovery_controller_is_foreign_under_any_name() -> None:
    assert verdict(snapshot(session("dead", cntrltype="discovery"))).decision is Decision.FOREIGN


@pytest.mark.parametrize("item", [AWAY, DEAD, EMPTY], ids=["away", "dead", "empty"])
def test_an_orphan_is_disconnected_when_one_sighting_decides(item: Session) -> None:
    assert verdict(snapshot(item)).decision is Decision.DISCONNECT


def test_a_live_session_with_its_device_is_kept() -> None:
    assert verdict(snapshot(WELL)).decision is Decision.KEEP


def test_one_live_path_keeps_a_session() -> None:
    assert verdict(snapshot(session("dead", "live"))).decision is Decision.KEEP


def test_the_disk_of_a_path_that_is_away_is_of_no_use() -> None:
    item = session("live", "connecting")
    item = replace(item, namespaces=(replace(item.namespaces[0], controller="nvme1"),))
    assert verdict(snapshot(item)).sighting == Sighting(NQN, "nvme-subsys0", ("nvme0", "nvme1"), Kind.EMPTY)
    item = replace(item, namespaces=(replace(item.namespaces[0], controller="nvme0"),))
    assert verdict(snapshot(item)).decision is Decision.KEEP


def test_any_use_keeps_a_session() -> None:
    found = verdict(replace(snapshot(AWAY), uses={NQN: ("nvme0n1 is mounted at /a", "b", "c")}))
    assert found.decision is Decision.KEEP
    assert found.reason == "nvme0n1 is mounted at /a (and 2 more uses)."


def test_a_running_operation_keeps_a_session() -> None:
    found = verdict(replace(snapshot(AWAY), running={NQN: "NodeStageVolume"}, moved=frozenset({NQN})))
    assert found.decision is Decision.KEEP
    assert "NodeStageVolume is running" in found.reason


def test_a_left_over_without_controllers_is_kept_and_its_holder_named() -> None:
    found = verdict(replace(snapshot(session(devices=0)), uses={NQN: ("nvme0n1 is mounted at /a",)}))
    assert found.decision is Decision.KEEP
    assert "left-over" in found.reason
    assert "/a" in found.reason


def test_what_could_not_be_looked_at_is_never_free() -> None:
    for item in (AWAY, DEAD, EMPTY, WELL):
        for blind in (
            replace(snapshot(item), blind="no mountinfo"),
            replace(snapshot(item), unseen={NQN: "no mountinfo"}),
        ):
            found = verdict(blind)
            assert (found.decision, found.unsure) == (Decision.KEEP, True)
            assert "no mountinfo" in found.reason


def test_a_controller_that_goes_while_it_is_looked_at_is_kept() -> None:
    found = verdict(snapshot(session("dead", transport="")))
    assert (found.decision, found.unsure) == (Decision.KEEP, True)


def test_a_staged_block_volume_is_kept() -> None:
    found = verdict(replace(snapshot(AWAY), records={NQN: (record_of(NQN, "v0", block=True),)}))
    assert found.decision is Decision.KEEP
    assert "block" in found.reason


def test_a_recorded_volume_that_is_not_mounted_is_an_orphan_like_any_other() -> None:
    assert verdict(replace(snapshot(AWAY), records={NQN: (record_of(NQN, "v0"),)})).decision is Decision.DISCONNECT


def test_a_disconnect_that_hangs_is_not_repeated_while_the_controllers_are_the_same() -> None:
    hanging = replace(snapshot(DEAD), hangs={NQN: Hang(("nvme0",), NOW - 5)})
    found = verdict(hanging)
    assert (found.decision, found.urgent) == (Decision.KEEP, True)
    assert "hangs" in found.reason
    others = replace(hanging, hangs={NQN: Hang(("nvme7",), NOW - 5)})
    assert verdict(others).decision is Decision.DISCONNECT


@pytest.mark.parametrize("state", ["deleting", "deleting (no IO)"])
def test_a_disconnect_that_hangs_in_the_kernel_is_never_repeated(state: str) -> None:
    for states in ((state,), ("live", state)):
        item = session(*states)
        names = tuple(controller.name for controller in item.controllers)
        found = verdict(replace(snapshot(item), hangs={NQN: Hang(names, 0.0)}))
        assert (found.decision, found.urgent) == (Decision.KEEP, True)
        assert "not touched again" in found.reason


@pytest.mark.parametrize("item", [AWAY, DEAD, EMPTY], ids=lambda item: item.states)
def test_a_disconnect_that_was_merely_slow_is_tried_again_some_time(item: Session) -> None:
    hanging = replace(snapshot(item), now=NOW, hangs={NQN: Hang(("nvme0",), NOW - HANG_SECONDS + 1)})
    found = verdict(hanging)
    assert (found.decision, found.urgent) == (Decision.KEEP, True)
    assert "hangs" in found.reason
    assert verdict(replace(hanging, now=NOW + 1)).decision is Decision.DISCONNECT


@pytest.mark.parametrize("item", [AWAY, DEAD, EMPTY], ids=lambda item: item.states)
def test_a_device_that_could_not_be_read_whole_may_be_used(item: Session) -> None:
    going = replace(item, incomplete=("nvme0n1",))
    found = verdict(snapshot(going))
    assert (found.decision, found.unsure) == (Decision.KEEP, True)
    assert "its device nvme0n1 is coming or going just now" in found.reason
    # Its left-over counts too: they are disconnected together.
    left_over = replace(session(devices=0), incomplete=("nvme0n1",))
    assert [v.decision for v in decide(snapshot(left_over, item))] == [Decision.KEEP, Decision.KEEP]
    assert verdict(replace(snapshot(going), uses={NQN: ("it is used",)})).reason == "it is used."


def test_a_moved_volume_with_such_a_device_is_cut_only_while_no_path_is_live() -> None:
    for item, decision in ((EMPTY, Decision.KEEP), (AWAY, Decision.DISCONNECT)):
        going = replace(item, incomplete=("nvme0n1",))
        assert verdict(replace(snapshot(going), moved=frozenset({NQN}))).decision is decision


# The policy for unused ones


def test_an_unused_session_goes_only_where_that_policy_is_on() -> None:
    assert verdict(replace(snapshot(WELL), sweep_unused=True)).decision is Decision.DISCONNECT
    found = verdict(replace(snapshot(WELL), sweep_unused=True, records={NQN: (record_of(NQN, "v0"),)}))
    assert found.decision is Decision.KEEP
    found = verdict(replace(snapshot(WELL), sweep_unused=True, uses={NQN: ("it is used",)}))
    assert found.decision is Decision.KEEP


# Sightings


@pytest.mark.parametrize(
    ("item", "kind"), [(AWAY, Kind.AWAY), (DEAD, Kind.ENDED), (EMPTY, Kind.EMPTY), (session("deleting"), Kind.ENDED)]
)
def test_an_orphan_is_seen_twice_at_least_the_grace_period_apart(item: Session, kind: Kind) -> None:
    first = verdict(snapshot(item, grace=GRACE))
    assert (first.decision, first.sighting) == (Decision.KEEP, next(iter(seen(item, kind, 0))))
    assert "first time; it is decided in 60 s" in first.reason
    early = replace(snapshot(item, grace=GRACE), first_seen=seen(item, kind, NOW - GRACE + 1))
    assert verdict(early).decision is Decision.KEEP
    late = replace(early, first_seen=seen(item, kind, NOW - GRACE))
    assert verdict(late).decision is Decision.DISCONNECT


def test_a_sighting_is_of_the_same_controllers_and_the_same_kind() -> None:
    old = seen(AWAY, Kind.AWAY, 0.0)
    for item in (DEAD, replace(AWAY, subsystem="nvme-subsys9"), session("connecting", "connecting")):
        assert verdict(replace(snapshot(item, grace=GRACE), first_seen=old)).decision is Decision.KEEP


# Volumes that are attached elsewhere


@pytest.mark.parametrize("item", [AWAY, DEAD], ids=["away", "dead"])
def test_a_moved_volume_is_cut_at_once_while_no_path_is_live(item: Session) -> None:
    moved = replace(
        snapshot(item, grace=GRACE),
        moved=frozenset({NQN}),
        uses={NQN: ("nvme0n1 is mounted at /a",)},
        records={NQN: (record_of(NQN, "v0", block=True),)},
        blind="no mountinfo",
    )
    found = verdict(moved)
    assert (found.decision, found.sighting) == (Decision.DISCONNECT, None)
    assert "another node" in found.reason


def test_a_moved_volume_that_is_live_and_unused_is_disconnected() -> None:
    assert verdict(replace(snapshot(WELL, grace=GRACE), moved=frozenset({NQN}))).decision is Decision.DISCONNECT


def test_a_moved_volume_that_is_live_and_used_is_kept_and_a_person_is_told() -> None:
    found = verdict(replace(snapshot(WELL), moved=frozenset({NQN}), uses={NQN: ("nvme0n1 is mounted at /a",)}))
    assert (found.decision, found.urgent) == (Decision.KEEP, True)
    assert "/a" in found.reason


def test_a_moved_volume_that_is_live_and_cannot_be_looked_at_is_kept() -> None:
    found = verdict(replace(snapshot(WELL), moved=frozenset({NQN}), blind="no mountinfo"))
    assert (found.decision, found.unsure) == (Decision.KEEP, True)


def test_every_subsystem_gets_a_verdict_with_what_it_consists_of() -> None:
    left_over = replace(session(devices=0), subsystem="nvme-subsys5")
    verdicts = decide(snapshot(AWAY, left_over, session("live", nqn="nqn.x")))
    assert [v.decision for v in verdicts] == [Decision.DISCONNECT, Decision.KEEP, Decision.FOREIGN]
    assert (verdicts[0].controllers, verdicts[0].devices) == ((("nvme0", "connecting"),), ("nvme0n1",))


# A pure function of random snapshots, against rules that are written down the other way round.

STATES = ("live", "new", "connecting", "resetting", "deleting", "deleting (no IO)", "dead")


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    states = draw(st.lists(st.sampled_from(STATES), max_size=2))
    item = session(
        *states,
        devices=draw(st.integers(0, 2)),
        nqn=draw(st.sampled_from([NQN, NQN, NQN, "nqn.2000-02.com.mikrotik:v0"])),
        transport=draw(st.sampled_from(["tcp", "tcp", "tcp", "pcie"])),
    )
    kinds = [draw(st.sampled_from(Kind))]
    names = tuple(f"nvme{n}" for n in range(len(states)))
    flag = st.integers(0, 4).map(lambda number: number == 0)
    item = replace(item, incomplete=("nvme0n9",) if draw(flag) else ())
    return Snapshot(
        SessionIndex({item.nqn: (item,)}),
        PREFIX,
        NOW,
        draw(st.sampled_from([0.0, GRACE])),
        draw(st.booleans()),
        uses={NQN: ("it is used",)} if draw(flag) else {},
        unseen={NQN: "unknown"} if draw(flag) else {},
        blind="unknown" if draw(flag) else "",
        records={NQN: (record_of(NQN, "v0", block=draw(st.booleans())),)} if draw(flag) else {},
        running={NQN: "NodeStageVolume"} if draw(flag) else {},
        moved=frozenset({NQN}) if draw(flag) else frozenset(),
        hangs={NQN: Hang(names, draw(st.sampled_from([NOW, NOW - HANG_SECONDS])))} if draw(flag) else {},
        first_seen={Sighting(NQN, "nvme-subsys0", names, k): draw(st.sampled_from([900.0, 990.0])) for k in kinds},
    )


def may_go(of: Snapshot) -> bool:
    """The rules of the design, each as a reason to keep its hands off."""
    ((item,),) = of.index.by_nqn.values()
    states = {controller.state for controller in item.controllers}
    ours = item.nqn.startswith(PREFIX) and {controller.transport for controller in item.controllers} == {"tcp"}
    hangs = [hang for hang in of.hangs.values() if hang.since == NOW or any("deleting" in state for state in states)]
    if not ours or item.nqn in of.running or hangs:
        return False
    if item.nqn in of.moved and "live" not in states:
        return True
    records = of.records.get(item.nqn, ())
    if of.blind or of.unseen or item.incomplete or of.uses or any(record.block for record in records):
        return False
    if item.nqn in of.moved:
        return True
    if "live" in states:
        if item.namespaces and (records or not of.sweep_unused):
            return False
        kind = Kind.UNUSED if item.namespaces else Kind.EMPTY
    else:
        kind = Kind.AWAY if states & {"new", "connecting", "resetting"} else Kind.ENDED
    ages = [of.now - first for sighting, first in of.first_seen.items() if sighting.kind == kind]
    return not of.grace or any(age >= of.grace for age in ages)


@given(snapshots())
@settings(max_examples=1000, deadline=None)
def test_the_decision_is_that_of_the_design(of: Snapshot) -> None:
    assert (verdict(of).decision is Decision.DISCONNECT) == may_go(of)


# Made-up hosts: trees of files, looked at as the real ones are.


@dataclass(frozen=True)
class Made:
    """One session of a made-up host, and what was done with its device."""

    state: str
    namespace: bool
    prefix: str
    transport: str
    uses: frozenset[str]


Use = Callable[[SweepHost, int, str], None]


def _lost_mount(host: SweepHost, number: int, name: str) -> None:
    host.mount_disk(number, f"/mnt/{name}")
    host.lose_device(number)


def _partition_mount(host: SweepHost, number: int, name: str) -> None:
    host.mount(f"/mnt/{name}", host.partition(number), "/dev/root")


def _partition_holder(host: SweepHost, number: int, name: str) -> None:
    host.partition(number)
    host.hold(number, "md0", part=f"nvme{number}n1p1")


def _partition_swap(host: SweepHost, number: int, name: str) -> None:
    host.partition(number)
    host.swap(f"nvme{number}n1p1")


def _odd_loop(host: SweepHost, number: int, name: str) -> None:
    host.loop(f"loop{100 + number}", f"/publish/{name}")
    host.tree.nodes.numbers[str(host.tree.path("publish", name))] = host.number(number)


def _namespace_mount(host: SweepHost, number: int, name: str) -> None:
    host.mount_disk(number, f"/mnt/{name}", process=str(100 + number))
    host.program(100 + number, namespace=f"mnt:[{number}]")


USES: dict[str, Use] = {
    "mount": lambda host, number, name: host.mount_disk(number, f"/mnt/{name}"),
    "mount of the host": lambda host, number, name: host.mount_disk(number, f"/mnt/{name}", process=INIT),
    "mount of another namespace": _namespace_mount,
    "mount with a made-up number": lambda host, number, name: host.mount(f"/b/{name}", "0:77", f"/dev/nvme{number}n1"),
    "mount by another name": lambda host, number, name: host.mount(f"/m/{name}", host.number(number), "/dev/root"),
    "mount of a partition": _partition_mount,
    "mount of a lost device": _lost_mount,
    "mount at the staging path": lambda host, number, name: _staging_mount(host, name),
    "dm": lambda host, number, name: host.hold(number, "dm-0"),
    "md over a partition": _partition_holder,
    "swap": lambda host, number, name: host.swap(f"nvme{number}n1"),
    "swap on a partition": _partition_swap,
    "loop": lambda host, number, name: host.loop(f"loop{number}", f"/dev/nvme{number}n1"),
    "loop over a block node": _odd_loop,
    "program": lambda host, number, name: host.program(200 + number, "socket:[1]", f"/dev/nvme{number}n1"),
    "claim": lambda host, number, name: host.claim(number),
    "block volume": lambda host, number, name: host.records.append(record_of(f"{PREFIX}{name}", name, block=True)),
}
# The device is not there afterwards for any other.
LONELY = frozenset({"mount of a lost device"})
# These need no device.
OF_RECORDS = frozenset({"block volume", "mount at the staging path"})


def _staging_mount(host: SweepHost, name: str) -> None:
    host.records.append(record_of(f"{PREFIX}{name}", name))
    host.mount(f"/staging/{name}", "0:99", "/dev/mapper/x")


made_sessions = st.builds(
    Made,
    state=st.sampled_from(STATES),
    namespace=st.booleans(),
    prefix=st.sampled_from([PREFIX, PREFIX, PREFIX, "nqn.2000-02.com.mikrotik:", "nqn.2026-01.io.example2:"]),
    transport=st.sampled_from(["tcp", "tcp", "tcp", "tcp", "pcie"]),
    uses=st.one_of(
        st.just(frozenset[str]()),
        st.sampled_from(sorted(LONELY)).map(lambda use: frozenset({use})),
        st.frozensets(st.sampled_from(sorted(set(USES) - LONELY)), max_size=3),
    ),
)


def make(host: SweepHost, name: str, made: Made) -> None:
    number = host.session(
        name, state=made.state, namespace=made.namespace, prefix=made.prefix, transport=made.transport
    )
    for use in sorted(made.uses):
        if made.namespace or use in OF_RECORDS:
            USES[use](host, number, name)


def is_used(made: Made) -> bool:
    """A device that is not there has no users, but for those that the record tells of."""
    return bool(made.uses if made.namespace else made.uses & OF_RECORDS)


@given(st.lists(made_sessions, min_size=1, max_size=4), st.booleans(), st.booleans())
@settings(max_examples=1000, deadline=None)
def test_nothing_used_is_ever_disconnected(made: list[Made], multipath: bool, sweep_unused: bool) -> None:
    # A thousand trees of a hundred files each: in memory, where there is such a place.
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as directory:
        asyncio.run(_sweep_made(Path(directory), made, multipath, sweep_unused))


async def _sweep_made(root: Path, made: list[Made], multipath: bool, sweep_unused: bool) -> None:
    host = SweepHost(root, multipath=multipath)
    for number, item in enumerate(made):
        make(host, f"v{number}", item)
    cleaner = host.cleaner(sweep_unused=sweep_unused)

    await cleaner.cleanup_orphaned_connections()

    free = [
        f"v{number}"
        for number, item in enumerate(made)
        if item.prefix == PREFIX and item.transport == "tcp" and not is_used(item)
    ]
    gone = [
        name
        for name in free
        if (item := made[int(name[1:])]).state != "live" or not item.namespace or (sweep_unused and not item.uses)
    ]
    assert sorted(host.disconnected) == sorted(gone)


@pytest.mark.parametrize("multipath", [True, False], ids=["multipath", "no multipath"])
@pytest.mark.parametrize("use", sorted(USES))
async def test_each_use_keeps_a_dead_session(tmp_path: Path, use: str, multipath: bool) -> None:
    host = SweepHost(tmp_path, multipath=multipath)
    number = host.session("v0", state="dead")
    assert (await host.sweep(host.cleaner(dry_run=True)))["v0"].verdict.decision is Decision.DISCONNECT

    USES[use](host, number, "v0")
    outcome = (await host.sweep())["v0"]

    assert outcome.verdict.decision is Decision.KEEP
    assert not host.disconnected


@pytest.mark.parametrize("process", ["self", INIT, "77"])
@pytest.mark.parametrize("character", ["\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028"], ids=ascii)
async def test_a_mount_path_with_an_odd_line_end_keeps_a_session(tmp_path: Path, character: str, process: str) -> None:
    host = SweepHost(tmp_path)
    number = host.session("v0", state="dead")
    if process.isdecimal() and process != INIT:
        host.program(int(process), namespace="mnt:[5]")
    host.mount_disk(number, f"/mnt/{character}a{character}", process=process)

    assert "is mounted at" in (await host.sweep())["v0"].verdict.reason
    assert not host.disconnected


def test_a_cleaner_needs_a_prefix(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        SweepHost(tmp_path).cleaner(prefix="")
