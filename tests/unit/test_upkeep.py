"""A node's background work on a made-up tree: the sweep before the socket answers, the ones after it, the keeper."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio
import pytest

from rds_csi.arrays.protocol import Array
from rds_csi.errors import Unavailable
from rds_csi.locks import OperationLocks
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import FileTarget, NvmeTarget, Target
from rds_csi.model.volumes import AccessMode, Attachment, Node, Volume
from rds_csi.nvme.sightings import FILE_NAME
from rds_csi.parts import Machine
from rds_csi.settings import load_settings
from rds_csi.upkeep import Upkeep, any_moved, moved_by
from tests.support.nvme_bench import NQN, TARGET, UUID, NvmeBench
from tests.support.rpc import eventually

PREFIX = "nqn.2026-01.io.example:"
RECORD = StageRecord("v0", "/staging/v0", TARGET, ConnectionConfig(), 1 << 30, "token", "boot", block=True)


class UpkeepBench(NvmeBench):
    """The connector, and an upkeep over it; ``records`` are all stage records, ``staged`` those of staged volumes."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root
        self.records: list[StageRecord] = []
        self.staged: list[StageRecord] = []
        self.looks = 0
        self.locks = OperationLocks()
        self.moved: frozenset[str] = frozenset()
        self.runner.on(*self.disconnect_program, effect=self.remove)

    def upkeep(self, **flags: str) -> Upkeep:
        """One sighting decides and there are no later sweeps, unless ``flags`` say otherwise."""
        fixed = {"nqn_prefix": PREFIX, "state_dir": str(self.root / "state"), "grace": "0", "sweep_interval": "0"}
        return Upkeep(
            load_settings({**fixed, **flags}),
            Machine(self.runner, self.workers, self.tree.host, self.metrics),
            self.connector,
            records=self.all_records,
            staged=self.all_staged,
            locks=self.locks,
            moved=self.what_moved,
            boot_id="boot",
        )

    async def all_records(self) -> Sequence[StageRecord]:
        return self.records

    async def all_staged(self) -> Sequence[StageRecord]:
        self.looks += 1
        return self.staged

    async def what_moved(self) -> frozenset[str]:
        return self.moved


@pytest.fixture
def bench(tmp_path: Path) -> UpkeepBench:
    return UpkeepBench(tmp_path)


@asynccontextmanager
async def running(upkeep: Upkeep) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upkeep.run)
        yield
        tasks.cancel_scope.cancel()


async def test_the_first_sweep_disconnects_an_orphan(bench: UpkeepBench) -> None:
    bench.tree.add_session(NQN, state="connecting")
    await bench.upkeep().before_serving()
    assert bench.disconnects == 1


async def test_the_first_sweep_leaves_what_is_of_another_prefix(bench: UpkeepBench) -> None:
    bench.tree.add_session("nqn.2000-02.com.mikrotik:var", state="connecting")
    await bench.upkeep().before_serving()
    assert bench.runner.calls == []


async def test_the_first_sweep_waits_for_no_grace_where_a_volume_has_moved(bench: UpkeepBench) -> None:
    bench.tree.add_session(NQN, state="connecting")
    bench.moved = frozenset({NQN})
    await bench.upkeep(grace="60").before_serving()
    assert bench.disconnects == 1


async def test_the_first_sweep_spares_what_a_call_works_on(bench: UpkeepBench) -> None:
    bench.tree.add_session(NQN, state="connecting")
    with bench.locks.hold("NodeStageVolume", NQN):
        await bench.upkeep().before_serving()
    assert bench.disconnects == 0


async def test_a_record_keeps_a_live_session_also_of_a_volume_that_is_not_staged(bench: UpkeepBench) -> None:
    bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=UUID)
    bench.records = [RECORD]
    await bench.upkeep(sweep_unused="yes").before_serving()
    assert bench.disconnects == 0


async def test_a_dry_run_disconnects_nothing(bench: UpkeepBench) -> None:
    bench.tree.add_session(NQN, state="connecting")
    await bench.upkeep(dry_run="yes").before_serving()
    assert bench.runner.calls == []


async def test_sightings_are_kept_for_the_next_server(bench: UpkeepBench) -> None:
    bench.tree.add_session(NQN, state="connecting")
    await bench.upkeep(grace="60").before_serving()
    assert NQN in (bench.root / "state" / FILE_NAME).read_text()


async def test_a_first_sweep_that_does_not_end_is_given_up(
    bench: UpkeepBench, caplog: pytest.LogCaptureFixture
) -> None:
    async def never() -> Sequence[StageRecord]:
        await anyio.sleep_forever()
        return ()

    bench.tree.add_session(NQN, state="connecting")
    bench.all_records = never  # type: ignore[method-assign]  # records on a disk that hangs
    with anyio.fail_after(10):
        await bench.upkeep().before_serving(seconds=0.01)
    assert "the first sweep was given up" in caplog.text


async def test_a_first_sweep_that_fails_keeps_no_server_from_starting(
    bench: UpkeepBench, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> frozenset[str]:
        raise RuntimeError("a defect")

    bench.what_moved = broken  # type: ignore[method-assign]  # anything may be wrong in there
    await bench.upkeep().before_serving()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_sweeps_go_on_while_the_server_runs(bench: UpkeepBench) -> None:
    async with running(bench.upkeep(sweep_interval="0.01")):
        await asyncio.sleep(0)
        bench.tree.add_session(NQN, state="connecting")
        await eventually(lambda: bench.disconnects == 1, "the orphan is disconnected")


async def test_without_an_interval_only_the_sessions_of_staged_volumes_are_kept(bench: UpkeepBench) -> None:
    bench.runner.on(*bench.connect_program, effect=bench.export())
    bench.tree.add_session(f"{PREFIX}orphan", state="connecting")
    bench.staged = [RECORD]
    async with running(bench.upkeep()):
        await eventually(lambda: bench.connects == 1, "the session is connected again")
    assert bench.disconnects == 0


async def test_a_volume_that_is_not_staged_any_more_is_not_connected_again(bench: UpkeepBench) -> None:
    bench.records = [RECORD]
    async with running(bench.upkeep()):
        await eventually(lambda: bench.looks > 1, "the keeper has looked twice")
    assert bench.connects == 0


# What is attached elsewhere


class Listing:
    """As much of an array as is asked."""

    def __init__(self, *volumes: Volume, error: Unavailable | None = None) -> None:
        self._volumes = volumes
        self._error = error

    async def list_volumes(self) -> Sequence[Volume]:
        if self._error is not None:
            raise self._error
        return self._volumes


def volume(name: str, *nodes: str, target: Target | None = None) -> Volume:
    attachments = tuple(Attachment(Node(node), "token", AccessMode.SINGLE_NODE_WRITER) for node in nodes)
    return Volume(
        name,
        name,
        1 << 30,
        target=target or NvmeTarget(f"{PREFIX}{name}", ("192.0.2.1",), 4420, UUID),
        attachments=attachments,
    )


async def test_a_volume_has_moved_when_it_is_attached_elsewhere_and_not_here() -> None:
    array = Listing(
        volume("elsewhere", "n2"),
        volume("twice-elsewhere", "n2", "n3"),
        volume("here", "n1"),
        volume("both", "n1", "n2"),
        volume("nowhere"),
        volume("file", "n2", target=FileTarget("/images/v1")),
    )
    moved = await moved_by(cast(Array, array), "n1")()
    assert moved == {f"{PREFIX}elsewhere", f"{PREFIX}twice-elsewhere"}


async def test_an_attachment_of_this_node_under_another_id_is_here() -> None:
    # As a controller of its own attaches, which learns the host NQN by the node's id.
    array = Listing(volume("here", "n1#nqn.2014-08.org.nvmexpress:uuid:1"), volume("elsewhere", "n11#nqn.2014-08.x:1"))
    assert await moved_by(cast(Array, array), "n1")() == {f"{PREFIX}elsewhere"}


async def test_an_array_that_is_away_tells_of_nothing_that_moved() -> None:
    assert await moved_by(cast(Array, Listing(error=Unavailable("it is away"))), "n1")() == frozenset()


async def test_whatever_any_of_those_who_know_tells_has_moved() -> None:
    async def first() -> frozenset[str]:
        return frozenset({"a", "b"})

    async def second() -> frozenset[str]:
        return frozenset({"b", "c"})

    assert await any_moved([first, second])() == {"a", "b", "c"}
    assert await any_moved([])() == frozenset()
