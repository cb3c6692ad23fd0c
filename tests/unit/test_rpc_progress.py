"""How far an operation is: in the log of a slow call, and in the document of the status socket."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from rds_csi.csi import v1 as csi
from rds_csi.locks import OperationLocks
from rds_csi.progress import begin, note
from rds_csi.rpc.activity import activity_of, status_socket
from rds_csi.rpc.limits import Limits
from tests.support.rpc import Held, Node, Served, eventually, served

REQUEST = csi.NodeStageVolumeRequest(volume_id="pvc-1", staging_target_path="/s")


class Connecting(Held):
    """A stage that tells its step, and that a task of its own tells another."""

    def __init__(self, locks: OperationLocks, step: str, attempt: int = 0) -> None:
        super().__init__()
        self._locks = locks
        self._step = step
        self._attempt = attempt

    async def __call__(self, request: csi.NodeStageVolumeRequest) -> None:
        async def work() -> None:
            note(self._step, attempt=self._attempt)

        with self._locks.hold("NodeStageVolume", request.volume_id):
            await asyncio.create_task(work())
            await super().__call__(request)


async def stage(server: Served) -> None:
    async with server.channel() as channel:
        await csi.NodeStub(channel).node_stage_volume(REQUEST)


@pytest.mark.parametrize(
    ("step", "attempt", "told"),
    [
        ("connecting 192.0.2.1:4420", 2, "connecting 192.0.2.1:4420, attempt 2"),
        ("mkfs.ext4", 0, "mkfs.ext4"),
        ("", 0, None),
    ],
)
async def test_a_long_call_tells_what_it_is_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step: str, attempt: int, told: str | None
) -> None:
    caplog.set_level(logging.INFO, logger="rds_csi")
    held = Connecting(OperationLocks(), step, attempt)

    def lines() -> list[dict[str, object]]:
        return [
            record.fields  # type: ignore[attr-defined]  # set by rds_csi.logging
            for record in caplog.records
            if record.message == "call still running"
        ]

    async with served(tmp_path, Node(held), Limits(slow_call_seconds=0.002, tick_seconds=0.001)) as server:
        call = asyncio.create_task(stage(server))
        await held.begun.wait()
        before = len(lines())
        await eventually(lambda: len(lines()) > before, "a line after the step was told")
        held.go_on.set()
        await call
    last = lines()[-1]
    assert (last["method"], last["volume_id"], last.get("at")) == ("NodeStageVolume", "pvc-1", told)


async def test_the_document_tells_operation_subject_step_and_attempt_of_a_running_call(tmp_path: Path) -> None:
    locks = OperationLocks()
    held = Connecting(locks, "connecting 192.0.2.1:4420", 2)
    async with served(tmp_path, Node(held)) as server:
        call = asyncio.create_task(stage(server))
        await held.begun.wait()
        document = await activity_of([locks])()
        held.go_on.set()
        await call
    assert isinstance(document, dict)
    (told,) = document["operations"]
    assert told.pop("seconds") >= 0
    assert told == {
        "key": "pvc-1",
        "operation": "NodeStageVolume",
        "subject": "pvc-1",
        "step": "connecting 192.0.2.1:4420",
        "attempt": 2,
    }
    assert await activity_of([locks])() == {"operations": [], "troubles": {}}


async def test_an_operation_on_several_keys_is_told_once_and_the_oldest_first() -> None:
    controller, node = OperationLocks(), OperationLocks()
    first = begin("CreateSnapshot")
    with controller.hold("CreateSnapshot", "vol-1", "snap-1"):
        begin("NodeStageVolume").began = first.began - 60
        with node.hold("NodeStageVolume", "vol-2"):
            document = await activity_of([controller, node])()
    assert isinstance(document, dict)
    told = [(item["operation"], item["key"], item["subject"]) for item in document["operations"]]
    assert told == [("NodeStageVolume", "vol-2", "vol-2"), ("CreateSnapshot", "vol-1", "vol-1")]
    assert document["operations"][0]["seconds"] >= 60


async def test_the_document_has_the_troubles_of_whoever_keeps_sessions() -> None:
    async def troubles() -> Mapping[str, str]:
        return {"nqn.2026-01.io.example:v0": "away since 60 s"}

    assert await activity_of([], troubles)() == {
        "operations": [],
        "troubles": {"nqn.2026-01.io.example:v0": "away since 60 s"},
    }


def test_the_status_socket_lies_in_the_state_directory() -> None:
    assert status_socket("/var/lib/rds-csi/state") == "/var/lib/rds-csi/state/status.sock"
