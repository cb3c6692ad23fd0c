"""The examples of docs/writing-a-backend.md: packages of their own, found by entry points; csi-sanity passes."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from rds_csi.csi.v1 import (
    CapacityRange,
    ControllerStub,
    CreateSnapshotRequest,
    CreateVolumeRequest,
    DeleteSnapshotRequest,
    DeleteVolumeRequest,
    ListSnapshotsRequest,
    ListVolumesRequest,
    VolumeCapability,
    VolumeCapabilityAccessMode,
    VolumeCapabilityAccessModeMode,
    VolumeCapabilityBlockVolume,
    VolumeContentSource,
    VolumeContentSourceSnapshotSource,
    VolumeContentSourceVolumeSource,
)
from rds_csi.model.sizes import MIB
from tests.integration.test_sanity import MAX_VOLUMES_PER_NODE
from tests.integration.test_sanity import csi_sanity as csi_sanity  # noqa: PLC0414  # a fixture
from tests.support.driver import Driver
from tests.support.missing import give_up
from tests.support.sanity import PENDING_SPEC, RUNNABLE_SPECS, SANITY_SECONDS, run_sanity

ROOT = Path(__file__).parents[2]
INSTALL_SECONDS = 120.0
ROUNDS = 4
SEED = 20261121
# Seconds after which a round has done all of its calls, undisturbed.
ROUND_SECONDS = 0.3
# A repeated call may be told to come again for this long.
CONVERGE_SECONDS = 30.0
AGAIN = (Status.ABORTED, Status.UNAVAILABLE)

Call = Callable[[ControllerStub], Awaitable[object]]


@dataclass(frozen=True)
class Example:
    """``kind`` is the URL's scheme; ``left_out`` is what csi-sanity may skip of it; ``own`` are names of files that it
    keeps in its directory and that are no trace of a volume."""

    kind: str
    left_out: tuple[str, ...]
    own: frozenset[str]

    def traces(self, array: Path) -> list[Path]:
        """What is left of volumes."""
        return [path for path in array.rglob("*") if path.is_file() and path.name not in self.own]


DIRECTORY = Example("directory", left_out=("GroupController Service",), own=frozenset({".lock", ".reserve"}))
SQLITE = Example("sqlite", left_out=(), own=frozenset({"array.db", "lock", "reserve"}))
both = pytest.mark.parametrize("example", [DIRECTORY, SQLITE], ids=lambda example: example.kind)


@pytest.fixture
def installed(home: Path, example: Example) -> Path:
    """A directory with the example as pip installs it: neither editable nor in the driver's own environment."""
    target = home / "site-packages"
    argv = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    # pip leaves build/ in a source tree that may be read-only, or somebody else's.
    source = home / "source"
    subprocess.run(["cp", "-r", ROOT / f"examples/array-{example.kind}", source], timeout=INSTALL_SECONDS, check=True)
    done = subprocess.run(
        [*argv, "--target", target, source], timeout=INSTALL_SECONDS, capture_output=True, text=True, check=False
    )
    if done.returncode:
        give_up(f"the example cannot be installed: {done.stderr}")
    return target


@pytest.mark.timeout(SANITY_SECONDS + INSTALL_SECONDS + 120)
@pytest.mark.parametrize("access_type", ["mount", "block"])
@both
def test_csi_sanity_passes_with_an_example_and_skips_only_what_it_leaves_out(
    csi_sanity: str,
    home: Path,
    example: Example,
    installed: Path,
    access_type: str,
) -> None:
    # What is left below the fixture's own "array" would count as a trace of a volume.
    array = home / "directory"
    array.mkdir()
    flags = ("--array", f"{example.kind}://{array}", "--connector", "loop", "--node-id", "node-1")
    environment = {"PYTHONPATH": str(installed)}
    with Driver(home, *flags, "--max-volumes-per-node", MAX_VOLUMES_PER_NODE, environment=environment) as driver:
        report = run_sanity(csi_sanity, driver.socket, home, access_type=access_type)
    assert report.failed == (), report.output
    assert [name for name in report.skipped if not any(part in name for part in example.left_out)] == []
    assert [name for name in report.pending if not name.endswith(PENDING_SPEC)] == []
    assert len(report.passed) + len(report.skipped) == RUNNABLE_SPECS
    assert example.traces(array) == []


@pytest.mark.parametrize("example", [DIRECTORY], ids=lambda example: example.kind)
def test_a_directory_that_another_process_has_is_refused(home: Path, example: Example, installed: Path) -> None:
    array = home / "directory"
    array.mkdir()
    environment = {"PYTHONPATH": str(installed)}
    flags = ("--array", f"{example.kind}://{array}", "--connector", "loop", "--node-id", "node-1")
    argv = (sys.executable, "-m", "rds_csi", "controller", "--array", f"{example.kind}://{array}")
    with Driver(home, *flags, environment=environment):
        done = subprocess.run(
            [*argv, f"--endpoint=unix://{home}/second.sock"],
            timeout=INSTALL_SECONDS,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
    assert done.returncode == 2
    assert "is in use by another process" in done.stderr
    # Stopped, it has let go.
    with Driver(home, *flags, environment=environment):
        pass


def test_the_driver_ends_with_one_sentence_when_the_example_is_not_installed(home: Path) -> None:
    argv = (sys.executable, "-m", "rds_csi", "controller", "--array", "directory:///srv", "--endpoint")
    done = subprocess.run(
        [*argv, f"unix://{home}/csi.sock"],
        timeout=INSTALL_SECONDS,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 2
    assert "there is no array 'directory'" in done.stderr


def creation(name: str, source: VolumeContentSource | None = None, provisioning: str = "thin") -> Call:
    mode = VolumeCapabilityAccessModeMode(VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER)
    request = CreateVolumeRequest(
        name=name,
        capacity_range=CapacityRange(required_bytes=8 * MIB),
        parameters={"provisioning": provisioning},
        volume_capabilities=[
            VolumeCapability(block=VolumeCapabilityBlockVolume(), access_mode=VolumeCapabilityAccessMode(mode=mode))
        ],
    )
    if source is not None:
        request.volume_content_source = source
    return lambda stub: stub.create_volume(request)


# Each depends on those before it.
CREATIONS: tuple[Call, ...] = (
    creation("first", provisioning="thick"),
    lambda stub: stub.create_snapshot(CreateSnapshotRequest(source_volume_id="first", name="snapshot")),
    creation("clone", VolumeContentSource(volume=VolumeContentSourceVolumeSource(volume_id="first"))),
    creation("restored", VolumeContentSource(snapshot=VolumeContentSourceSnapshotSource(snapshot_id="snapshot"))),
)
DELETIONS: tuple[Call, ...] = (
    lambda stub: stub.delete_volume(DeleteVolumeRequest(volume_id="first")),
    lambda stub: stub.delete_snapshot(DeleteSnapshotRequest(snapshot_id="snapshot")),
    lambda stub: stub.delete_volume(DeleteVolumeRequest(volume_id="clone")),
    lambda stub: stub.delete_volume(DeleteVolumeRequest(volume_id="restored")),
)


async def call_all(socket: Path, calls: tuple[Call, ...]) -> None:
    """Each call until it succeeds, as a sidecar would."""
    async with Channel(path=str(socket)) as channel:
        stub = ControllerStub(channel)
        for call in calls:
            deadline = time.monotonic() + CONVERGE_SECONDS
            while True:
                try:
                    await call(stub)
                    break
                except GRPCError as error:
                    if error.status not in AGAIN or time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.05)


async def call_until_killed(driver: Driver, calls: tuple[Call, ...], seconds: float) -> None:
    """Kill the driver after that many seconds of calls."""
    calling = asyncio.create_task(call_all(driver.socket, calls))
    await asyncio.sleep(seconds)
    await asyncio.to_thread(driver.kill)
    with contextlib.suppress(OSError, StreamTerminatedError, GRPCError):
        await calling


async def ids(socket: Path) -> list[str]:
    """Of all volumes and snapshots."""
    async with Channel(path=str(socket)) as channel:
        stub = ControllerStub(channel)
        volumes = (await stub.list_volumes(ListVolumesRequest())).entries
        snapshots = (await stub.list_snapshots(ListSnapshotsRequest())).entries
        return [*(entry.volume.volume_id for entry in volumes), *(entry.snapshot.snapshot_id for entry in snapshots)]


# The driver starts 16 times.
@pytest.mark.timeout(900)
@both
def test_killed_at_any_moment_the_repeated_calls_make_and_delete_everything(
    home: Path, example: Example, installed: Path
) -> None:
    array = home / "directory"
    array.mkdir()
    random = Random(SEED)
    flags = ("--array", f"{example.kind}://{array}", "--connector", "loop")
    driver = Driver(home, *flags, role="controller", environment={"PYTHONPATH": str(installed)})
    for _ in range(ROUNDS):
        for calls, left in ((CREATIONS, ["clone", "first", "restored", "snapshot"]), (DELETIONS, [])):
            driver.start()
            asyncio.run(call_until_killed(driver, calls, random.uniform(0, ROUND_SECONDS)))
            with driver:
                asyncio.run(call_all(driver.socket, calls))
                assert asyncio.run(ids(driver.socket)) == left
    assert example.traces(array) == []
