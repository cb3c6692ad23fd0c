"""``rds-csi status``: volumes, sessions and operations, with a server and without one."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rds_csi.commands.running_server import ask_server
from rds_csi.commands.status import show_status
from rds_csi.filesystem.records import FileStageRecords
from rds_csi.locks import OperationLocks
from rds_csi.metrics import Metrics
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import NvmeTarget
from rds_csi.progress import begin, note
from rds_csi.rpc.activity import OPERATIONS, Troubles, activity_of, no_troubles, status_socket
from rds_csi.rpc.http import HttpEndpoint
from rds_csi.settings import Settings, load_settings
from rds_csi.workers import Workers
from tests.support.nvme_tree import NvmeTree

PREFIX = "nqn.2026-01.io.example:"
NQN = f"{PREFIX}v0"


def settings_for(root: Path, state_dir: Path) -> Settings:
    return load_settings(
        {
            "connector": "nvme-cli",
            "host_root": str(root),
            "state_dir": str(state_dir),
            "nqn_prefix": PREFIX,
        }
    )


@pytest.fixture
def tree(tmp_path: Path) -> NvmeTree:
    return NvmeTree(tmp_path / "host")


@pytest.fixture
def settings(tree: NvmeTree, tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "host", tmp_path / "state")


async def keep_record(settings: Settings, nqn: str = NQN) -> None:
    """A record of a volume that is staged as a block device."""
    record = StageRecord(
        "pvc-1", "/staging", NvmeTarget(nqn, ("192.0.2.1",)), ConnectionConfig(), 1 << 30, "token", "boot", block=True
    )
    await FileStageRecords(f"{settings.state_dir}/volumes", Workers()).store(record, durable=False)


async def well() -> str:
    return ""


@asynccontextmanager
async def server(settings: Settings, locks: OperationLocks, troubles: Troubles = no_troubles) -> AsyncIterator[None]:
    """What a running node serves for this command."""
    http = HttpEndpoint(
        f"unix:{status_socket(settings.state_dir)}",
        Metrics(),
        healthy=well,
        ready=well,
        documents={OPERATIONS: activity_of([locks], troubles)},
    )
    await http.start()
    try:
        yield
    finally:
        await http.close()


async def as_json(settings: Settings, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    await show_status(settings, as_json=True)
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


async def test_without_volumes_sessions_and_server_it_says_so_three_times(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await show_status(settings, as_json=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        "No volume is staged on this machine.",
        "",
        f"No NVMe session of {PREFIX} is on this machine.",
        "",
        f"What is being done now is not known: no server answers at {settings.state_dir}/status.sock.",
    ]
    assert await as_json(settings, capsys) == {
        "volumes": [],
        "sessions": [],
        "operations": [],
        "server": "not running",
    }


async def test_sessions_are_shown_with_portals_states_values_devices_and_volume(
    tree: NvmeTree, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    number = tree.add_session(NQN)
    tree.add_path(number, NQN, state="connecting", traddr="192.0.2.2")
    tree.add_namespace(number)
    tree.add_session(f"{PREFIX}v1", traddr="192.0.2.9")
    tree.add_session("nqn.2019-08.org.example:foreign")
    await keep_record(settings)
    first, second = (await as_json(settings, capsys))["sessions"]
    values = {"ctrl_loss_tmo": -1, "reconnect_delay": 5, "fast_io_fail_tmo": -1, "keep_alive_tmo": 5}
    assert first == {
        "nqn": NQN,
        "volume_id": "pvc-1",
        "controllers": [
            {"name": "nvme0", "portal": "192.0.2.1:4420", "state": "live", **values},
            {"name": "nvme1", "portal": "192.0.2.2:4420", "state": "connecting", **values},
        ],
        "devices": ["/dev/nvme0n1"],
    }
    assert (second["nqn"], second["volume_id"], second["devices"]) == (f"{PREFIX}v1", "", [])
    await show_status(settings, as_json=False)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    shown = "ctrl_loss_tmo=off,reconnect_delay=5,fast_io_fail_tmo=off,keep_alive_tmo=5"
    assert f"{NQN} nvme1 192.0.2.2:4420 connecting {shown} /dev/nvme0n1 pvc-1" in lines
    assert f"{PREFIX}v1 nvme2 192.0.2.9:4420 live {shown} - -" in lines
    assert not any("foreign" in line for line in lines)


async def test_a_session_that_the_kernel_gave_up_under_a_mount_is_shown(
    tree: NvmeTree, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subsystem = tmp_path / "host/sys/class/nvme-subsystem/nvme-subsys7"
    subsystem.mkdir()
    (subsystem / "subsysnqn").write_text(f"{NQN}\n")
    await show_status(settings, as_json=False)
    assert f"{NQN} - - no controller - - -" in " ".join(capsys.readouterr().out.split())


async def test_running_operations_are_shown_with_step_and_attempt(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    locks = OperationLocks()
    begin("NodeStageVolume")
    async with server(settings, locks):
        assert (await as_json(settings, capsys))["server"] == "running"
        await show_status(settings, as_json=False)
        assert "The server is running and has nothing to do." in capsys.readouterr().out
        with locks.hold("NodeStageVolume", "pvc-1", NQN):
            note("connecting 192.0.2.1:4420", attempt=2)
            (operation,) = (await as_json(settings, capsys))["operations"]
            await show_status(settings, as_json=False)
    assert operation.pop("seconds") >= 0
    assert operation == {
        "key": "pvc-1",
        "operation": "NodeStageVolume",
        "subject": "pvc-1",
        "step": "connecting 192.0.2.1:4420",
        "attempt": 2,
    }
    text = capsys.readouterr().out
    assert "NodeStageVolume  pvc-1  pvc-1" in text
    assert "connecting 192.0.2.1:4420, attempt 2" in text


async def test_a_volume_whose_session_is_kept_trying_tells_why_and_is_not_well(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    async def troubles() -> Mapping[str, str]:
        return {NQN: "away since 60 s: connection refused"}

    await keep_record(settings)
    async with server(settings, OperationLocks(), troubles):
        assert await show_status(settings, as_json=True) == 1
    (volume,) = json.loads(capsys.readouterr().out)["volumes"]
    assert volume["health"] == "the volume has no device on this node: away since 60 s: connection refused"
    assert volume["target"] == NQN


async def test_what_would_fool_a_terminal_is_shown_as_an_escape(
    tree: NvmeTree, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.add_session(f"{PREFIX}\x1b[2J")
    await show_status(settings, as_json=False)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert r"\x1b[2J" in text


# The socket of a server that is not well


async def test_a_dead_servers_socket_is_no_server(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "status.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert (await ask_server(str(path))).problem == f"no server answers at {path}"


async def test_a_path_that_no_socket_can_have_is_no_server() -> None:
    assert "cannot be asked" in (await ask_server("/" + "x" * 200)).problem


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\n\r\nthe check failed\n",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\n\r\nnull",
        b'HTTP/1.1 200 OK\r\n\r\n{"operations": [{"key": 1}], "troubles": {}}',
        b'HTTP/1.1 200 OK\r\n\r\n{"operations": 1, "troubles": {}}',
        b'HTTP/1.1 200 OK\r\n\r\n{"operations": [], "troubles": []}',
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe",
    ],
)
async def test_an_answer_that_is_none_is_told_and_breaks_nothing(tmp_path: Path, answer: bytes) -> None:
    async def treat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    path = str(tmp_path / "status.sock")
    strange = await asyncio.start_unix_server(treat, path)
    try:
        activity = await ask_server(path)
    finally:
        strange.close()
    assert activity.problem == f"the server at {path} gave an answer that is not understood"


async def test_a_server_that_never_ends_its_answer_is_left_after_some_megabytes(tmp_path: Path) -> None:
    done = asyncio.Event()

    async def treat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        except ConnectionError:
            writer.close()
            done.set()

    path = str(tmp_path / "status.sock")
    mad = await asyncio.start_unix_server(treat, path)
    try:
        assert "not understood" in (await ask_server(path)).problem
        await done.wait()
    finally:
        mad.close()


async def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    path = str(tmp_path / "status.sock")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(path)
        mute.listen(1)
        activity = await ask_server(path, seconds=0.05)
    assert activity.problem == f"the server at {path} did not answer within 0.05 s"
