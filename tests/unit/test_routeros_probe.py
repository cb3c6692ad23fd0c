"""The probe against the simulator, over both transports: what it learns, what it records, and that nothing is left."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rds_csi.arrays.routeros.client import Client
from rds_csi.arrays.routeros.mark import Mark, decode
from rds_csi.arrays.routeros.options import RestOptions, RouterosOptions, SnapshotMeans, SshOptions
from rds_csi.arrays.routeros.probe import PREFIX, Probe
from rds_csi.arrays.routeros.recording import Recorder, capture_text, open_recorded, without_secrets
from rds_csi.model.sizes import GIB
from rds_csi.model.volumes import Finding
from rds_csi.simulator.device_options import PoolOptions
from rds_csi.simulator.faults import Fault, FaultKind
from rds_csi.simulator.server import Simulator, SimulatorOptions
from rds_csi.workers import Workers
from tests.support.routeros_memory import POOL, MemoryClient, MemoryDevice

TOKEN = "0123abcd"


@dataclass(frozen=True)
class Place:
    """A simulator, and the way to it; what was recorded on that way."""

    simulator: Simulator
    options: RouterosOptions
    recorder: Recorder
    client: Client

    async def probe(self) -> dict[str, Finding]:
        findings = await Probe(self.client, self.options, self.recorder, TOKEN).run()
        return {finding.subject: finding for finding in findings}

    def left(self) -> list[str]:
        """What has the probe's name."""
        items = [item for menu in ("/disk", "/file") for item in self.simulator.device.menus[menu].items()]
        texts = [str(item.values.get("slot") or item.values.get("name")) for item in items]
        return [text for text in texts if PREFIX in text]


def _pool(means: SnapshotMeans) -> PoolOptions:
    return PoolOptions(filesystem="btrfs" if means is SnapshotMeans.BTRFS_SUBVOLUME else "xfs", label="data")


def _place(transport: str, simulator: Simulator, directory: Path, means: SnapshotMeans) -> Place:
    files = simulator.write_credentials(directory)
    way: SshOptions | RestOptions
    if transport == "ssh":
        way = SshOptions("127.0.0.1", "csi", str(files.client_key), str(files.known_hosts), port=simulator.ssh_port)
    else:
        way = RestOptions(
            "127.0.0.1", "csi", password_file=str(files.password), tls_ca=str(files.tls_ca), port=simulator.https_port
        )
    options = RouterosOptions(
        way, "raid10", "rds.csi.rds-csi.io", "nqn.2026-01.io.rds-csi:prod:", ("127.0.0.1",), snapshots=means
    )
    recorder = Recorder()
    return Place(simulator, options, recorder, open_recorded(options, recorder, Workers(limit=2)))


@pytest.fixture(params=["ssh", "rest"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def means() -> SnapshotMeans:
    return SnapshotMeans.NONE


@pytest.fixture
def version() -> str:
    return "7.24"


@pytest.fixture
async def place(transport: str, means: SnapshotMeans, version: str, tmp_path: Path) -> AsyncIterator[Place]:
    simulated = SimulatorOptions(directory=tmp_path / "device", version=version, pools=(_pool(means),))
    async with Simulator(simulated) as simulator:
        found = _place(transport, simulator, tmp_path / "credentials", means)
        try:
            yield found
        finally:
            await found.client.close()


async def test_the_probe_answers_every_question_and_leaves_nothing(place: Place) -> None:
    findings = await place.probe()
    assert [finding for finding in findings.values() if not finding.ok] == []
    assert findings["size"].message == "16777216 bytes asked for, 16777216 read back"
    assert findings["growth"].message == "33554432 bytes asked for, 33554432 read back"
    assert findings["allocation"].message.endswith("thick")
    assert findings["file after removal"].message == "the file stays"
    assert "too long" in findings["slot of 33 characters"].message
    assert place.left() == []


@pytest.mark.parametrize("means", [SnapshotMeans.BTRFS_SUBVOLUME, SnapshotMeans.FILE_COPY])
async def test_the_means_of_snapshots_are_tried_when_they_are_switched_on(place: Place, means: SnapshotMeans) -> None:
    findings = await place.probe()
    subject = "subvolumes" if means is SnapshotMeans.BTRFS_SUBVOLUME else "file copy"
    assert findings[subject].ok
    assert findings["nothing left"].ok
    assert place.left() == []


async def test_nothing_of_others_is_touched(place: Place) -> None:
    def foreign() -> list[object]:
        menu = place.simulator.device.menus["/disk"]
        return [(item.id, item.values["slot"]) for item in menu.items() if item.values.get("type") == "file"]

    before = foreign()
    assert before
    await place.probe()
    assert foreign() == before


@pytest.mark.parametrize("version", ["7.17"])
async def test_an_old_device_is_not_probed(place: Place) -> None:
    (finding,) = (await place.probe()).values()
    assert not finding.ok
    assert "too old" in finding.message


async def test_a_refused_disk_ends_the_probe_and_nothing_is_left(place: Place) -> None:
    place.simulator.faults.add(Fault(FaultKind.NO_SPACE, times=0))
    findings = await place.probe()
    assert set(findings) == {"size", "nothing left"}
    assert not findings["size"].ok
    assert findings["nothing left"].ok


async def test_a_device_that_loses_a_reply_half_way_is_cleaned_up_all_the_same(place: Place, transport: str) -> None:
    match = "file-size" if transport == "ssh" else "PATCH /rest/disk"
    place.simulator.faults.add(Fault(FaultKind.LOSE_REPLY, match=match))
    findings = await place.probe()
    assert any(not finding.ok for finding in findings.values())
    assert findings["nothing left"].ok
    assert place.left() == []


async def test_a_probe_that_is_cancelled_half_way_cleans_up_before_it_ends(place: Place) -> None:
    task = asyncio.create_task(place.probe())
    while place.recorder.step != "growth":
        await asyncio.sleep(0)
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert place.recorder.step == "clean up"
    assert place.left() == []


async def test_what_a_killed_probe_leaves_carries_our_mark(place: Place) -> None:
    probe = Probe(place.client, place.options, place.recorder, TOKEN)
    await probe.contact()
    await probe._create()
    (disk,) = [disk for disk in await place.client.list_disks() if disk.slot.startswith(PREFIX)]
    mark = decode(disk.comment)
    assert isinstance(mark, Mark)
    assert (mark.object_id, mark.driver, mark.cluster) == (f"{PREFIX}{TOKEN}", "rds.csi.rds-csi.io", "default")
    assert probe.names.is_ours(disk.file_path, mark.object_id)


# The capture


async def test_the_capture_has_every_exchange_with_its_step_and_no_secret(place: Place, tmp_path: Path) -> None:
    findings = await place.probe()
    facts = await place.client.facts()
    moment = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    text = capture_text(place.options, facts, list(findings.values()), place.recorder.exchanges, lambda: moment)
    document = json.loads(text)
    assert document["format"] == "rds-csi-capture/1"
    assert document["taken"] == "2026-11-21T12:00:00Z"
    assert document["device"]["version"].startswith("7.24")
    assert {each["step"] for each in document["exchanges"]} >= {"contact", "size", "growth", "clean up"}
    assert all(each["request"] and each["seconds"] >= 0 for each in document["exchanges"])
    assert any(each["reply"] for each in document["exchanges"])
    assert (tmp_path / "credentials" / "password").read_text().strip() not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"slot":"a","nvme-tcp-password":"hun\\"ter2"}', '{"slot":"a","nvme-tcp-password":"***"}'),
        ('{"encryption-key": "k", "size": 1}', '{"encryption-key": "***", "size": 1}'),
        ('{"serial": 123}', '{"serial": "***"}'),
        ('slot="a" nvme-tcp-server-secret="s;t" size=1', 'slot="a" nvme-tcp-server-secret=*** size=1'),
        ("smb-password=x;slot=y", "smb-password=***;slot=y"),
        ('{"comment":"rds-csi/1/d/c/v:x/"}', '{"comment":"rds-csi/1/d/c/v:x/"}'),
    ],
)
def test_secrets_and_serial_numbers_are_not_recorded(text: str, expected: str) -> None:
    assert without_secrets(text) == expected


async def test_the_capture_names_neither_the_device_nor_the_user_in_any_of_its_texts(place: Place) -> None:
    answers = [*(await place.probe()).values(), Finding("probe", False, "csi at 127.0.0.1:22 said no")]
    began = place.recorder.begin()
    place.recorder.end(began, '/user/print where name="csi"', '{"name":"csi"}', "Unsent: csi@127.0.0.1: refused")
    text = capture_text(place.options, await place.client.facts(), answers, place.recorder.exchanges)
    assert "127.0.0.1" not in text
    (told,) = [each for each in json.loads(text)["exchanges"] if each["error"].startswith("Unsent")]
    assert told["request"] == '/user/print where name="USER"'
    assert told["reply"] == '{"name":"USER"}'
    assert told["error"] == "Unsent: USER@HOST: refused"
    assert json.loads(text)["answers"][-1]["answer"] == "USER at HOST:22 said no"
    # Only whole words: the driver's own name stays.
    assert "rds-csi" in text


async def test_a_pool_with_little_room_is_not_probed() -> None:
    device = MemoryDevice(size=GIB - 1)
    options = RouterosOptions(RestOptions("192.0.2.1"), POOL, "d", "nqn.2026-01.io.x:", ("192.0.2.1",))
    (finding,) = await Probe(MemoryClient(device), options, Recorder(), TOKEN).run()
    assert not finding.ok
    assert finding.message == "not made: only 1023 MiB are free in the pool raid10, and a probe wants 1024"
    assert "execute" not in device.calls


async def test_answers_are_kept_when_the_probe_is_stopped_during_its_clean_up(place: Place) -> None:
    probe = Probe(place.client, place.options, place.recorder, TOKEN)
    task = asyncio.create_task(probe.run())
    while place.recorder.step != "clean up":
        await asyncio.sleep(0)
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (probe.answers[-1].subject, probe.answers[-1].ok) == ("nothing left", True)
    assert len(probe.answers) > 10
