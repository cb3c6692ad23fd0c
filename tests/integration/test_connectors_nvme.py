"""The programs of the NVMe connectors as real processes: GNU dd on files, and an nvme that misbehaves."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from rds_csi.connectors.fabrics import Fabrics, build_options
from rds_csi.connectors.nvme_cli import NvmeCli
from rds_csi.connectors.nvme_connector import NvmeConnector
from rds_csi.connectors.nvme_failures import Reason
from rds_csi.connectors.protocol import ConnectorOptions
from rds_csi.model.connection import ConnectionConfig
from rds_csi.nvme.identity import HostIdentity
from rds_csi.nvme.sessions import Controller, Session
from rds_csi.process import ProcessRunner
from rds_csi.workers import Workers
from tests.support.nvme_bench import NQN, TARGET, no_uevents
from tests.support.nvme_tree import HOSTID, HOSTNQN, NvmeTree
from tests.support.waiting import wait_until

IDENTITY = HostIdentity(HOSTNQN, HOSTID)
CONFIG = ConnectionConfig()


async def answers(_address: str, _port: int, _host_iface: str) -> Reason | None:
    return None


@pytest.fixture
def tree(tmp_path: Path) -> NvmeTree:
    return NvmeTree(tmp_path / "host")


@pytest.fixture
def fabrics(tree: NvmeTree) -> Fabrics:
    return Fabrics(ProcessRunner(), Workers(), tree.host, answers)


async def test_dd_writes_the_options_as_they_are(tree: NvmeTree, fabrics: Fabrics) -> None:
    assert (await fabrics.connect(TARGET, "192.0.2.1", CONFIG, IDENTITY)).reason is None
    written = tree.path("dev/nvme-fabrics").read_text()
    assert written == build_options(TARGET, "192.0.2.1", CONFIG, IDENTITY)


async def test_dd_does_not_make_a_missing_device(tree: NvmeTree, fabrics: Fabrics) -> None:
    tree.path("dev/nvme-fabrics").unlink()
    answer = await fabrics.connect(TARGET, "192.0.2.1", CONFIG, IDENTITY)
    assert answer.reason is Reason.NO_MODULE
    assert not tree.path("dev/nvme-fabrics").exists()


async def test_dd_tells_the_errno_of_a_write_that_fails(tree: NvmeTree, fabrics: Fabrics) -> None:
    device = tree.path("dev/nvme-fabrics")
    device.unlink()
    device.symlink_to("/dev/full")
    answer = await fabrics.connect(TARGET, "192.0.2.1", CONFIG, IDENTITY)
    assert answer.line.endswith(f"dd: error writing '{device}': No space left on device")


async def test_dd_deletes_a_controller_with_a_one(tree: NvmeTree, fabrics: Fabrics) -> None:
    tree.add_session(NQN)
    attribute = tree.path("sys/class/nvme/nvme0/delete_controller")
    attribute.write_text("")
    await fabrics.disconnect(Session(NQN, "nvme-subsys0", (Controller("nvme0", "live", "tcp"),)))
    assert attribute.read_text() == "1"


async def test_the_machine_has_what_fabrics_needs(tree: NvmeTree, fabrics: Fabrics) -> None:
    assert [finding.ok for finding in await fabrics.check()] == [True, True]
    tree.path("dev/nvme-fabrics").unlink()
    # That the device is missing is told once, with the module.
    (tool,) = await fabrics.check()
    assert "coreutils" in tool.message


def connector(tree: NvmeTree, tmp_path: Path, script: str) -> NvmeConnector:
    """A connector whose ``nvme`` is a shell script."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "nvme"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    runner = ProcessRunner(f"{programs}:{os.environ['PATH']}")
    options = ConnectorOptions(runner, Workers(), tree.host, str(tmp_path / "state"))
    return NvmeConnector(options, NvmeCli(runner, answers), nodes=tree.nodes, uevents=no_uevents(), ask=answers)


def runs(pid: str) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_an_nvme_that_hangs_is_killed_within_a_second_of_the_cancellation(tree: NvmeTree, tmp_path: Path) -> None:
    # It does not listen to anybody, and neither does its child.
    pids = tmp_path / "pids"
    hanging = connector(tree, tmp_path, f"trap '' TERM INT; sleep 600 & echo $$ $! >{pids}; wait; wait")
    call = asyncio.create_task(hanging.connect(TARGET, CONFIG))
    await asyncio.to_thread(wait_until, lambda: pids.exists() and pids.read_text().endswith("\n"), "nvme hangs")

    call.cancel()
    begun = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert time.monotonic() - begun < 1
    assert not any(runs(pid) for pid in pids.read_text().split())


async def test_an_nvme_that_is_killed_is_started_again(tree: NvmeTree, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    killed = connector(tree, tmp_path, f"echo run >>{runs}; kill -KILL $$")
    call = asyncio.create_task(killed.connect_with_retry(TARGET, CONFIG))
    await asyncio.to_thread(wait_until, lambda: runs.exists() and runs.read_text().count("run") > 1, "it ran again")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
