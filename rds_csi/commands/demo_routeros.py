"""``rds-csi demo --array routeros``: the whole life of a volume on a simulated RouterOS, over SSH and over REST."""

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from grpclib.client import Channel
from grpclib.exceptions import GRPCError

from rds_csi.arrays.routeros.array import open_client
from rds_csi.arrays.routeros.checks import examine
from rds_csi.arrays.routeros.options import parse
from rds_csi.commands.actors import CALL_SECONDS, NODE, Actors
from rds_csi.commands.playing import DemoFailed, in_words, serving, step, take_back
from rds_csi.commands.simulate import array_urls
from rds_csi.commands.simulated_device import Belongings, file_behind, shown_disk
from rds_csi.csi.v1 import (
    ControllerStub,
    GetCapacityRequest,
    ListVolumesRequest,
    NodeStub,
    Volume,
    VolumeContentSource,
    VolumeContentSourceSnapshotSource,
    VolumeContentSourceVolumeSource,
)
from rds_csi.model.sizes import GIB, MIB
from rds_csi.model.targets import NQN_KEY
from rds_csi.settings import Settings, load_settings
from rds_csi.simulator.device_options import PoolOptions
from rds_csi.simulator.faults import Fault
from rds_csi.simulator.server import Simulator, SimulatorOptions
from rds_csi.workers import Workers

VERSION = "7.24"
POOL = PoolOptions(filesystem="btrfs")
SIZE = 320 * MIB
GROWN = 512 * MIB
PAYLOAD = 8 * MIB

MADE_UP = """\
The array is simulated, and so is the node: no device is connected, formatted or mounted (connector `memory`).
What a pod would write is written straight into the volume's file on the simulated array, and read from there."""

HINT = """\
What next?
  rds-csi simulate                      keep such a device running, with faults on demand
  rds-csi doctor --array URL            check a real one, and print the lines that make its user
  rds-csi all --array URL               serve controller and node with it"""


async def play_routeros(faults: Sequence[Fault] = ()) -> int:
    """Play the demo; the exit status is 0 when every step and every check went well.

    ``faults`` strike the simulated device from the start.
    """
    directory = tempfile.mkdtemp(prefix="rds-csi-demo-")
    options = SimulatorOptions(Path(directory, "device"), version=VERSION, pools=(POOL,), faults=tuple(faults))
    problems: list[str] = []
    try:
        async with Simulator(options) as simulator:
            await _both_lives(simulator, directory, problems)
    except OSError as error:
        problems.append(f"the simulated device cannot run here: {error}")
    finally:
        # On every way out, Ctrl-C too.
        shutil.rmtree(directory)
        if problems:
            print("", *problems, sep="\n", file=sys.stderr)
    if problems:
        return 1
    print(f"\nNothing is left behind, and what belongs to others is as it was.\n\n{HINT}")
    return 0


async def _both_lives(simulator: Simulator, directory: str, problems: list[str]) -> None:
    """The life of a volume over each transport, until one fails; what went wrong is added to ``problems``."""
    device = simulator.device
    print(f"The life of a volume on a RouterOS {device.version} look-alike in {directory}/device,")
    print(f"pool {POOL.slot} ({POOL.filesystem}), where other tenants have disks, too.\n{MADE_UP}")
    files = await asyncio.to_thread(simulator.write_credentials, Path(directory, "credentials"))
    before = await Belongings.of(device, POOL.slot)
    try:
        for number, url in enumerate(array_urls(simulator, files)):
            print(f"\nOver {url.partition('://')[0]}:", flush=True)
            await _life(simulator, _settings(directory, number, url), problems)
            if problems:
                return
    finally:
        problems += (await Belongings.of(device, POOL.slot)).differences(before)


def _settings(directory: str, number: int, url: str) -> Settings:
    return load_settings(
        {
            "endpoint": f"unix://{directory}/{number}.sock",
            "array": url,
            "connector": "memory",
            "node_id": NODE,
            "state_dir": f"{directory}/state-{number}",
        }
    )


async def _life(simulator: Simulator, settings: Settings, problems: list[str]) -> None:
    """One life; whatever happens, what it made is taken back."""
    demo = _Demo(simulator, settings)
    try:
        await demo.check()
    except DemoFailed as error:
        problems.append(in_words(error))
        return
    path = settings.endpoint.removeprefix("unix://")
    async with serving(settings), Channel(path=path) as channel:
        actors = Actors(os.path.dirname(path), "ext4", ControllerStub(channel), NodeStub(channel))
        try:
            await demo.play(actors)
        except (GRPCError, DemoFailed, LookupError, OSError) as error:
            problems.append(in_words(error))
        finally:
            await take_back(actors, problems, node=True)


class _Demo:
    """A volume's life over one transport, each step with its price."""

    def __init__(self, simulator: Simulator, settings: Settings) -> None:
        self._simulator = simulator
        self._device = simulator.device
        self._settings = settings

    async def check(self) -> None:
        """Look at the array as ``rds-csi doctor`` does. DemoFailed names what is not well."""
        options, workers = parse(self._settings.array, self._settings), Workers()
        client = open_client(options, workers)
        try:
            with self._step("check the array, like the doctor") as tell:
                findings = await examine(client, options, workers)
                bad = [f"{finding.subject}: {finding.message}" for finding in findings if not finding.ok]
                if bad:
                    raise DemoFailed("; ".join(bad))
                tell(f"{len(findings)} checks are well")
        finally:
            await client.close()

    async def play(self, actors: Actors) -> None:
        """From creation to deletion."""
        with self._step("ask for the pool's room") as tell:
            capacity = await actors.controller.get_capacity(GetCapacityRequest(), timeout=CALL_SECONDS)
            tell(f"{capacity.available_capacity / GIB:.1f} GiB")
        volume, paths = await self._made(actors)
        digest = hashlib.sha256(payload := secrets.token_bytes(PAYLOAD)).hexdigest()
        with step("write into its file on the array") as tell:
            await asyncio.to_thread(_write, paths[0], payload)
            tell(f"{PAYLOAD // MIB} MiB, sha256 {digest[:12]}…")
        paths += await self._copied(actors, volume)
        with step("check the data of all three") as tell:
            for path in paths:
                if await asyncio.to_thread(_digest, path) != digest:
                    raise DemoFailed(f"{path} does not hold what was written")
            tell("the same bytes three times")
        with self._step("list the volumes") as tell:
            listed = await actors.controller.list_volumes(ListVolumesRequest(), timeout=CALL_SECONDS)
            tell(f"{len(listed.entries)} of ours, none of another tenant")
            if sorted(entry.volume.volume_id for entry in listed.entries) != sorted(actors.volumes):
                raise DemoFailed("the list is not what was made")
        print("             what the array shows of it:")
        for name, value in shown_disk(self._device, volume.volume_context[NQN_KEY]).items():
            print(f"               {name:<8} {value}")
        with self._step("unpublish, unstage, detach them"):
            for volume_id in actors.volumes:
                await actors.detach(volume_id, node=True)
        with self._step("delete volumes and snapshot"):
            await actors.delete()

    async def _made(self, actors: Actors) -> tuple[Volume, list[Path]]:
        with self._step("create a volume") as tell:
            volume = await actors.create("demo", SIZE)
            tell(f"{volume.volume_id}, {volume.capacity_bytes // MIB} MiB thick")
        with self._step("publish it to this node") as tell:
            publish_context = await actors.attach(volume)
            tell(publish_context[NQN_KEY])
        with self._step("stage and mount it (made up)"):
            await actors.stage(volume, publish_context)
            await actors.publish(volume, publish_context)
        return volume, [file_behind(self._device, publish_context[NQN_KEY])]

    async def _copied(self, actors: Actors, volume: Volume) -> list[Path]:
        """A snapshot, growth, a clone and a volume from the snapshot; the files of the two."""
        with self._step("take a snapshot") as tell:
            snapshot_id = await actors.snapshot(volume, "demo-snapshot")
            tell(snapshot_id)
        with self._step("grow it while it is published") as tell:
            grown = await actors.expand(volume, GROWN)
            await actors.expand_filesystem(volume, GROWN)
            size = file_behind(self._device, volume.volume_context[NQN_KEY]).stat().st_size
            tell(f"its file has {SIZE // MIB} → {size // MIB} MiB")
            if (grown, size) != (GROWN, GROWN):
                raise DemoFailed("the volume did not grow")
        with self._step("clone it, publish the clone") as tell:
            source = VolumeContentSource(volume=VolumeContentSourceVolumeSource(volume_id=volume.volume_id))
            clone = await self._published(actors, "demo-clone", GROWN, source)
            tell(clone.parent.name)
        with self._step("restore the snapshot, publish it") as tell:
            source = VolumeContentSource(snapshot=VolumeContentSourceSnapshotSource(snapshot_id=snapshot_id))
            restored = await self._published(actors, "demo-restored", SIZE, source)
            tell(restored.parent.name)
        return [clone, restored]

    async def _published(self, actors: Actors, name: str, size: int, source: VolumeContentSource) -> Path:
        publish_context = await actors.attach(await actors.create(name, size, source))
        return file_behind(self._device, publish_context[NQN_KEY])

    @contextlib.contextmanager
    def _step(self, title: str) -> Iterator[Callable[[str], None]]:
        """A step that tells what the array was asked, too."""
        counters = self._simulator.counters
        execs, requests = counters.execs, counters.requests
        with step(title) as tell:
            yield tell
            tell(_price(counters.execs - execs, counters.requests - requests))


def _price(execs: int, requests: int) -> str:
    asked = [(execs, "exec"), (requests, "request")]
    told = [f"{number} {what}{'' if number == 1 else 's'}" for number, what in asked if number]
    return ", ".join(told) or "the array was not asked"


def _write(path: Path, data: bytes) -> None:
    with path.open("r+b") as stream:
        stream.write(data)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.sha256(stream.read(PAYLOAD)).hexdigest()
