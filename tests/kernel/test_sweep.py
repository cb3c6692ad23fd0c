"""The sweep on a real kernel: orphans of every kind go, and nothing that is used in any way."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rds_csi.blockdev.users import DeviceUsers
from rds_csi.connectors.nvme_cli import open_connector
from rds_csi.connectors.protocol import ConnectorOptions
from rds_csi.filesystem.records import FileStageRecords
from rds_csi.locks import LockFile, OperationLocks
from rds_csi.metrics import Metrics
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.host import HostPaths
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.orphans import OrphanCleaner
from rds_csi.nvme.sessions import Session
from rds_csi.nvme.sightings import Sightings
from rds_csi.nvme.sysfs import NvmeSysfs
from rds_csi.process import ProcessRunner
from rds_csi.workers import Workers
from tests.kernel.conftest import MakeTarget
from tests.support.nvme_host import end_session
from tests.support.nvme_settled import settle
from tests.support.nvmet_target import MIB, NvmetTarget
from tests.support.stand_ins import StandIns
from tests.support.waiting import wait_until

PREFIX = "nqn.2026-01.io.rds-csi.sweep:"
HOST = HostPaths()
HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:0d5e7a3c-6a1b-4c58-9a52-3f1f4f1b7e11"
HOSTID = "0d5e7a3c-6a1b-4c58-9a52-3f1f4f1b7e11"
SIZE = 32 * MIB
# The smallest btrfs.
BTRFS_SIZE = 128 * MIB
TOOL_SECONDS = 60.0
# A start takes seconds in there, and so does a sweep.
SWEEP_SECONDS = 120.0

ORPHANS = frozenset({"away", "recorded", "two-paths", "deleted", "empty", "empty-recorded", "unused"})
USED = frozenset(
    {
        *("mounted", "mounted-away", "other-namespace", "btrfs", "lost-device", "left-over"),
        *("swap", "dm", "loop", "open", "block", "working", "staged"),
    }
)
FOREIGN = frozenset(
    {"nqn.2000-02.com.mikrotik:nixos-var", "nqn.2026-01.io.rds-csi.sweep2:other", "nqn.2019-08.org.other:orphan"}
)


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TOOL_SECONDS)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def make_session(target: NvmetTarget, *, again: bool = False) -> None:
    """As nvme-cli does it; its version 2.3 has no way to a second path through the same portal."""
    options = {
        "transport": "tcp",
        "traddr": target.address,
        "trsvcid": str(target.port),
        "nqn": target.nqn,
        "hostnqn": HOSTNQN,
        "hostid": HOSTID,
        "ctrl_loss_tmo": "-1",
        "reconnect_delay": "1",
        "nr_io_queues": "1",
    }
    text = ",".join(f"{name}={value}" for name, value in options.items()) + (",duplicate_connect" if again else "")
    descriptor = os.open("/dev/nvme-fabrics", os.O_RDWR)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def session_of(nqn: str) -> Session | None:
    return NvmeSysfs(HOST).session(nqn)


def controllers() -> dict[str, frozenset[str]]:
    """Every controller by NQN."""
    sessions = NvmeSysfs(HOST).scan().by_nqn
    return {nqn: frozenset(c.name for s in found for c in s.controllers) for nqn, found in sessions.items()}


class Zoo:
    """Sessions of every kind, each made without the driver, and undone at the end."""

    def __init__(self, make: MakeTarget, directory: Path, undo: contextlib.ExitStack) -> None:
        self._make = make
        self._directory = directory
        self._undo = undo
        self.state = directory / "state"
        self.state.mkdir()
        self.targets: dict[str, NvmetTarget] = {}

    def connect(self, name: str, *, size: int = SIZE, nqn: str = "", paths: int = 1) -> str:
        """A live session with its device; the path of its node."""
        target = self._make(size=size, nqn=nqn or f"{PREFIX}{name}")
        self.targets[name] = target
        self._undo.callback(end_session, target.nqn)
        for number in range(paths):
            make_session(target, again=number > 0)
        node = ""

        def appeared() -> bool:
            nonlocal node
            session = session_of(target.nqn)
            node = f"/dev/{session.namespaces[0].device}" if session is not None and session.namespaces else ""
            return bool(node) and Path(node).is_block_device()

        wait_until(appeared, f"the device of {name} is there")
        settle(target.nqn)
        return node

    def cut(self, *names: str) -> None:
        """Their target is away until the end of the test."""
        for name in names:
            self.targets[name].break_link()
            self._undo.callback(self.targets[name].restore)
        nqns = {self.targets[name].nqn for name in names}
        wait_until(lambda: not any(map(is_live, nqns)), f"{', '.join(names)} are away")

    def empty(self, name: str) -> None:
        """It stays live, but without its namespace."""
        self.targets[name].disable_namespace()
        nqn = self.targets[name].nqn
        wait_until(lambda: (s := session_of(nqn)) is not None and not s.namespaces, f"{name} is empty")

    def mount(self, name: str, node: str, *, fs_type: str = "ext4") -> None:
        run(f"mkfs.{fs_type}", "-q", node)
        place = self._place(name)
        run("mount", "-t", fs_type, node, str(place))
        self._undo.callback(run, "umount", str(place))

    def mount_elsewhere(self, name: str, node: str) -> None:
        """Only a process of its own sees the mount."""
        run("mkfs.ext4", "-q", node)
        place = self._place(name)
        script = f"mount {node} {place} && echo mounted && exec sleep 1000"
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE
        )
        self._undo.callback(_end, process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"mounted\n"

    def open(self, node: str) -> None:
        """A program has it open, and no more."""
        process = subprocess.Popen(["sh", "-c", "exec 3<$0; echo open; exec sleep 1000", node], stdout=subprocess.PIPE)
        self._undo.callback(_end, process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"

    def swap(self, node: str) -> None:
        run("mkswap", node)
        run("swapon", node)
        self._undo.callback(run, "swapoff", node)

    def dm(self, node: str) -> None:
        run("modprobe", "dm_mod")
        run("dmsetup", "create", "sweep-test", "--table", f"0 2048 linear {node} 0")
        self._undo.callback(run, "dmsetup", "remove", "sweep-test")

    def loop(self, node: str) -> None:
        device = run("losetup", "--find", "--show", node).strip()
        self._undo.callback(run, "losetup", "--detach", device)

    def block_node(self, name: str, node: str) -> None:
        """As a pod has it: a node at its publish path."""
        place = self._directory / "published"
        os.mknod(place, 0o600 | 0o060000, os.stat(node).st_rdev)
        self.record(name, block=True, targets=(str(place),))

    def record(self, name: str, *, block: bool = False, targets: tuple[str, ...] = ()) -> None:
        target = self.targets[name]
        record = StageRecord(
            volume_id=name,
            staging_path=f"/nowhere/{name}",
            target=NvmeTarget(target.nqn, (target.address,), target.port, target.uuid),
            config=ConnectionConfig(),
            size=target.size,
            attachment="",
            boot_id="",
            block=block,
            block_targets=targets,
        )
        asyncio.run(FileStageRecords(str(self.state / "volumes"), Workers()).store(record))

    def work_on(self, name: str) -> None:
        """Another process has an operation on it."""
        locks = LockFile(str(self.state / "locks"))
        self._undo.callback(locks.close)
        assert locks.take(self.targets[name].nqn)

    def _place(self, name: str) -> Path:
        place = self._directory / f"mnt-{name}"
        place.mkdir()
        return place


def is_live(nqn: str) -> bool:
    session = session_of(nqn)
    return session is not None and session.is_live


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait(TOOL_SECONDS)
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture
def zoo(nvmet_target: MakeTarget, scratch: Path) -> Iterator[Zoo]:
    with contextlib.ExitStack() as undo:
        yield Zoo(nvmet_target, scratch, undo)


def populate(zoo: Zoo) -> None:
    """20 of ours, 7 of them orphans, and 3 of others."""
    uses: dict[str, Callable[[str], None]] = {
        "mounted": lambda node: zoo.mount("mounted", node),
        "mounted-away": lambda node: zoo.mount("mounted-away", node),
        "lost-device": lambda node: zoo.mount("lost-device", node),
        "left-over": lambda node: zoo.mount("left-over", node),
        "other-namespace": lambda node: zoo.mount_elsewhere("other-namespace", node),
        "swap": zoo.swap,
        "dm": zoo.dm,
        "loop": zoo.loop,
        "open": zoo.open,
        "block": lambda node: zoo.block_node("block", node),
        "staged": lambda _: zoo.record("staged"),
        "working": lambda _: zoo.work_on("working"),
        "recorded": lambda _: zoo.record("recorded"),
        "empty-recorded": lambda _: zoo.record("empty-recorded"),
    }
    for name in sorted(ORPHANS | USED - {"btrfs"}):
        node = zoo.connect(name, paths=2 if name == "two-paths" else 1)
        if name in uses:
            uses[name](node)
    zoo.mount("btrfs", zoo.connect("btrfs", size=BTRFS_SIZE), fs_type="btrfs")
    for nqn in FOREIGN:
        zoo.connect(nqn, nqn=nqn)
    zoo.targets["deleted"].close()
    zoo.cut("away", "recorded", "two-paths", "mounted-away", "other-namespace", "btrfs")
    zoo.cut("swap", "dm", "loop", "open", "block", "working", *(FOREIGN - {"nqn.2019-08.org.other:orphan"}))
    for name in ("empty", "empty-recorded", "lost-device", "nqn.2019-08.org.other:orphan"):
        zoo.empty(name)
    end_session(zoo.targets["left-over"].nqn)


def sweep_command(zoo: Zoo, *flags: str) -> list[str]:
    fixed = ("--nqn-prefix", PREFIX, "--state-dir", str(zoo.state), "--output", "json", "--sweep-unused")
    return [sys.executable, "-m", "rds_csi", "sweep", *fixed, *flags]


def sweep(zoo: Zoo, *flags: str, path: str = "") -> tuple[int, list[dict[str, object]], str]:
    """Exit status, what was printed, and the log."""
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"} if path else None
    done = subprocess.run(
        sweep_command(zoo, *flags), capture_output=True, text=True, timeout=SWEEP_SECONDS, env=environment
    )
    print(done.stdout, done.stderr)
    return done.returncode, json.loads(done.stdout), done.stderr


def decisions(found: list[dict[str, object]], decision: str) -> set[str]:
    """Names of ours and NQNs of others with that decision."""
    return {str(item["nqn"]).removeprefix(PREFIX) for item in found if item["decision"] == decision}


def assert_exactly_the_orphans_went(before: dict[str, frozenset[str]]) -> None:
    gone = {PREFIX + name for name in ORPHANS}
    after = controllers()
    assert not gone & {nqn for nqn, names in after.items() if names}
    assert {nqn: names for nqn, names in before.items() if nqn not in gone} == after


def test_exactly_the_orphans_are_disconnected(zoo: Zoo) -> None:
    populate(zoo)
    before = controllers()
    state = sorted(zoo.state.rglob("*"))

    status, found, _ = sweep(zoo, "--grace", "0", "--dry-run")
    assert (status, controllers()) == (0, before)
    assert decisions(found, "disconnect") == ORPHANS | {"working"}
    assert sorted(zoo.state.rglob("*")) == state

    status, found, log = sweep(zoo, "--grace", "0")

    assert status == 0
    assert len(found) == len(ORPHANS) + len(USED) + len(FOREIGN) == 23
    assert decisions(found, "disconnect") == ORPHANS
    assert decisions(found, "keep") == USED
    assert decisions(found, "foreign") == FOREIGN
    reasons = {str(item["nqn"]).removeprefix(PREFIX): str(item["reason"]) for item in found}
    for name, words in {
        "other-namespace": "mount namespace of pid",
        "swap": "swap",
        "dm": "held by dm-",
        "loop": "behind loop",
        "open": "is open in pid",
        "btrfs": "mounted at",
        "lost-device": "has left the kernel",
        "left-over": "left-over",
        "block": "block",
        "working": "another rds-csi process",
    }.items():
        assert words in reasons[name], reasons[name]
    for name in ORPHANS:
        assert any(f"disconnecting {PREFIX}{name} " in line and reasons[name] in line for line in log.splitlines())
    assert_exactly_the_orphans_went(before)


def test_the_daemon_does_the_same_at_its_second_look(zoo: Zoo) -> None:
    populate(zoo)
    before = controllers()
    command = sweep_command(zoo, "--grace", "2", "--interval", "4")
    log = (zoo.state.parent / "sweep.log").open("w")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(TOOL_SECONDS) == 0
    finally:
        process.kill()
        process.wait(TOOL_SECONDS)
        assert process.stdout is not None
        process.stdout.close()
        log.close()

    assert decisions(looks[0], "disconnect") == set()
    assert decisions(looks[1], "disconnect") == ORPHANS
    assert_exactly_the_orphans_went(before)


def test_a_disconnect_that_hangs_holds_up_no_other_and_is_not_repeated(zoo: Zoo) -> None:
    for name in ("a-hangs", "goes"):
        zoo.connect(name)
    zoo.cut("a-hangs", "goes")
    session = session_of(zoo.targets["a-hangs"].nqn)
    assert session is not None
    (controller,) = session.controllers
    directory = StandIns(zoo.state.parent / "bin")
    hanging = f'case "$*" in *disconnect*) case "$*" in *a-hangs*|*{controller.name}) sleep 1000;; esac;; esac'

    with directory.put("nvme", f'{hanging}\nexec $real "$@"'):
        status, found, _ = sweep(zoo, "--grace", "0", path=str(directory.directory))
        results = {str(item["nqn"]).removeprefix(PREFIX): item["result"] for item in found}
        assert (status, results) == (1, {"a-hangs": "hanging", "goes": "disconnected"})
        status, found, _ = sweep(zoo, "--grace", "0", path=str(directory.directory))

    assert status == 0
    assert decisions(found, "keep") == {"a-hangs"}
    assert "hangs" in str(found[0]["reason"])
    assert controllers() == {zoo.targets["a-hangs"].nqn: frozenset({controller.name})}


async def test_what_moved_to_another_node_is_cut_before_its_path_is_live(zoo: Zoo) -> None:
    nodes = {name: await asyncio.to_thread(zoo.connect, name) for name in ("moved-away", "moved-live", "moved-unused")}
    for name in ("moved-away", "moved-live"):
        await asyncio.to_thread(zoo.mount, name, nodes[name])
    written = zoo.state.parent / "mnt-moved-away" / "old"
    written.write_bytes(b"old pages")
    await asyncio.to_thread(zoo.cut, "moved-away")
    runner = ProcessRunner()
    workers = Workers()
    connector = open_connector(ConnectorOptions(runner, workers, HOST, str(zoo.state)))
    nqns = {name: target.nqn for name, target in zoo.targets.items()}

    async def moved() -> frozenset[str]:
        return frozenset(nqns.values())

    cleaner = OrphanCleaner(
        connector.resolver,
        DeviceUsers(HOST, workers),
        Sightings(workers),
        disconnect=connector.drop,
        staged=FileStageRecords(str(zoo.state / "volumes"), workers).all,
        locks=OperationLocks(),
        moved=moved,
        prefix=PREFIX,
        grace=600.0,
        sweep_unused=False,
        metrics=Metrics(),
    )

    outcomes = {outcome.verdict.nqn: outcome for outcome in await cleaner.cleanup_orphaned_connections()}

    connector.close()
    assert {nqn for nqn, outcome in outcomes.items() if outcome.result} == {nqns["moved-away"], nqns["moved-unused"]}
    assert outcomes[nqns["moved-live"]].verdict.urgent
    left = {nqn: bool(names) for nqn, names in controllers().items() if names}
    assert left == {nqns["moved-live"]: True}
