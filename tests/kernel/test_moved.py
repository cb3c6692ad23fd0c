"""A volume that the array has given to another node by now: a node that still has its session ends it at its start."""

import asyncio
from pathlib import Path

from grpclib.client import Channel

from rds_csi.commands.actors import Actors
from rds_csi.csi.v1 import ControllerStub, NodeStub, Volume
from rds_csi.model.sizes import MIB
from rds_csi.model.targets import NvmeTarget
from tests.kernel.conftest import MakeTarget
from tests.support.csi_calls import controllers_of, is_live
from tests.support.driver import Driver
from tests.support.nvme_host import run, target_of
from tests.support.nvmet_target import NVMET

HERE, ELSEWHERE = "n1", "n2"
SIZE = 32 * MIB


def driver_as(node_id: str, directory: Path) -> Driver:
    """``rds-csi all`` over the same array; without the array's word its sweep would keep every session for an hour."""
    array = f"nvmet://127.0.0.1:4420?backing={directory / 'array'}"
    flags = ("--connector", "nvme-cli", "--node-id", node_id, "--sweep-interval", "0", "--grace", "3600")
    return Driver(directory, "--array", array, *flags)


def connect(target: NvmeTarget, host: str) -> None:
    """A session as that host has it."""
    portal = ("-t", "tcp", "-a", target.addresses[0], "-s", str(target.port))
    run("nvme", "connect", *portal, "-n", target.nqn, "-q", host, "-I", host.rpartition(":")[2])
    assert is_live(target.nqn)


async def attach(driver: Driver, name: str, node_id: str) -> Volume:
    """A new volume that the array has given to the node."""
    async with Channel(path=str(driver.socket)) as channel:
        actors = Actors("", "ext4", ControllerStub(channel), NodeStub(channel), node_id)
        volume = await actors.create(name, SIZE)
        await actors.attach(volume)
    return volume


async def delete(driver: Driver, volume: Volume) -> list[str]:
    """Take it from whatever node, and delete it; what could not be done."""
    async with Channel(path=str(driver.socket)) as channel:
        actors = Actors("", "ext4", ControllerStub(channel), NodeStub(channel), "")
        actors.volumes.append(volume.volume_id)
        return await actors.undo(node=False)


def test_a_session_of_a_volume_that_another_node_has_is_ended_before_the_first_call(
    scratch: Path, nvmet_target: MakeTarget
) -> None:
    (scratch / "array").mkdir()
    with driver_as(ELSEWHERE, scratch) as driver:
        volume = asyncio.run(attach(driver, "moved", ELSEWHERE))
    moved = NvmeTarget.from_context(volume.volume_context)
    # Of ours by its name, and the array does not know it.
    stays = target_of(nvmet_target(nqn=f"{moved.nqn}-stays"))
    (host,) = (NVMET / "subsystems" / moved.nqn / "allowed_hosts").iterdir()
    for target in (moved, stays):
        connect(target, host.name)

    with driver_as(HERE, scratch) as driver:
        try:
            assert controllers_of(moved.nqn) == [], driver.text()
            assert f"disconnecting {moved.nqn} " in driver.text()
            assert is_live(stays.nqn)
        finally:
            for target in (moved, stays):
                run("nvme", "disconnect", "-n", target.nqn)
            problems = asyncio.run(delete(driver, volume))
    assert problems == []
