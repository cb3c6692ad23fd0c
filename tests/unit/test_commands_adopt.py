"""``rds-csi adopt``: what it prints, and that a dry run changes nothing."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from rds_csi.arrays.routeros.objects import Adoption
from rds_csi.commands.adopt import adopt, attachments, check_elsewhere, describe, persistent_volume
from rds_csi.errors import AlreadyExists, ConfigurationError, DriverError, FailedPrecondition, NotFound, Unavailable
from rds_csi.model.sizes import GIB
from rds_csi.model.targets import NvmeTarget
from rds_csi.model.volumes import AccessMode, Volume
from rds_csi.settings import Settings, load_settings
from rds_csi.simulator.server import Simulator, SimulatorOptions
from tests.support.routeros_arrays import array_on, spec
from tests.support.routeros_memory import MemoryDevice

ADOPTION = Adoption(
    Volume("db-1", "db-1", GIB, NvmeTarget("nqn.2026-01.io.rds-csi:db-1", ("192.0.2.1",), 4420)),
    "db-1",
    "raid10/db-1.img",
    ("comment=rds-csi/1/d/c/v:db-1/x:00000000",),
)


@dataclass(frozen=True)
class Place:
    """A simulator with a disk that somebody made by hand."""

    simulator: Simulator
    settings: Settings

    def disk(self, slot: str) -> dict[str, Any]:
        (item,) = [item for item in self.simulator.device.menus["/disk"].items() if item.values.get("slot") == slot]
        return dict(item.values)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with Simulator(SimulatorOptions(directory=tmp_path / "device")) as simulator:
        files = simulator.write_credentials(tmp_path / "credentials")
        url = (
            f"routeros+https://csi@127.0.0.1:{simulator.https_port}/?pool=raid10&password-file={files.password}"
            f"&tls-ca={files.tls_ca}"
        )
        by_hand = {"type": "file", "slot": "db-1", "file-path": "/raid10/db-1.img", "file-size": str(GIB)}
        await simulator.device.menus["/disk"].add({**by_hand, "mount-filesystem": "no"})
        yield Place(simulator, load_settings({"array": url}))


async def test_a_dry_run_changes_nothing_and_tells_all(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    before = place.disk("db-1")
    assert await adopt(place.settings, "db-1", dry_run=True) == 0
    told = capsys.readouterr().out
    assert place.disk("db-1") == before
    assert "would become volume db-1" in told
    assert "# would be set: comment=rds-csi/1/" in told
    assert 'volumeHandle: "db-1"' in told


async def test_an_adopted_disk_carries_the_mark_and_keeps_its_file(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    before = place.disk("db-1")
    assert await adopt(place.settings, "db-1") == 0
    after = place.disk("db-1")
    assert str(after["comment"]).startswith("rds-csi/1/rds.csi.rds-csi.io/")
    assert after["file-path"] == before["file-path"]
    assert f'storage: "{GIB}"' in capsys.readouterr().out


async def test_a_disk_that_is_not_there_or_somebody_s_is_refused(place: Place) -> None:
    for slot in ("none", "raid10", "swap"):
        with pytest.raises(DriverError):
            await adopt(place.settings, slot)


def test_the_persistent_volume_names_driver_handle_target_and_keeps_the_data() -> None:
    text = persistent_volume(ADOPTION, "rds.csi.rds-csi.io")
    lines = [line.strip() for line in text.splitlines()]
    assert "persistentVolumeReclaimPolicy: Retain" in lines
    assert 'driver: "rds.csi.rds-csi.io"' in lines
    assert 'volumeHandle: "db-1"' in lines
    for key, value in ADOPTION.volume.target.to_context().items():
        assert f"{key}: {json.dumps(value)}" in lines


def test_what_was_done_is_a_comment_of_the_yaml() -> None:
    for dry_run in (True, False):
        assert all(line.startswith("# ") for line in describe(ADOPTION, dry_run=dry_run).splitlines())
    assert "Nothing was changed" in describe(ADOPTION, dry_run=True)


async def test_with_several_arrays_the_slot_names_its_array(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "arrays.toml"
    path.write_text(
        f'default = "images"\n[arrays.images]\nurl = "local://{tmp_path}/images"\n'
        f'[arrays.rds]\nurl = "{place.settings.array}"\n'
    )
    settings = load_settings({"array": f"config://{path}"})
    assert await adopt(settings, "rds/db-1", dry_run=True) == 0
    assert "# array images was not asked" in capsys.readouterr().out
    with pytest.raises(ConfigurationError, match="ARRAY/SLOT"):
        await adopt(settings, "db-1")
    with pytest.raises(ConfigurationError, match="no disks"):
        await adopt(settings, "images/db-1")


# Several arrays


def device_with(slot: str) -> MemoryDevice:
    device = MemoryDevice()
    device.put(slot=slot, type="file", file_path=f"raid10/{slot}.img", size=GIB)
    return device


@pytest.mark.parametrize("away", [False, True])
async def test_an_id_that_another_array_has_or_may_have_is_refused(away: bool) -> None:
    fast, slow = MemoryDevice(), device_with("db-1")
    other = array_on(fast)
    await other.create_volume(spec("db-1"))
    fast.away = away
    with pytest.raises(Unavailable if away else AlreadyExists, match="fast"):
        await check_elsewhere(array_on(slow), {"fast": array_on(fast)}, "db-1")
    fast.away = False
    await other.delete_volume("db-1")
    await check_elsewhere(array_on(slow), {"fast": array_on(fast)}, "db-1")


async def test_the_disk_itself_is_not_in_the_way_of_another_array_on_its_device_but_on_another_it_is() -> None:
    device = device_with("db-1")
    same = array_on(device)
    await check_elsewhere(array_on(device, cluster="other"), {"same": same}, "db-1")
    elsewhere = array_on(device_with("db-1"), host="192.0.2.2")
    with pytest.raises(FailedPrecondition, match="elsewhere"):
        await check_elsewhere(same, {"elsewhere": elsewhere}, "db-1")


async def test_the_command_asks_the_other_arrays_before_it_changes_anything(place: Place, tmp_path: Path) -> None:
    away = f"routeros+ssh://csi@127.0.0.2:1/?pool=raid10&key-file={tmp_path}/none&known-hosts={tmp_path}/none"
    path = tmp_path / "arrays.toml"
    path.write_text(f'default = "rds"\n[arrays.rds]\nurl = "{place.settings.array}"\n[arrays.far]\nurl = "{away}"\n')
    settings, before = load_settings({"array": f"config://{path}"}), place.disk("db-1")
    for dry_run in (True, False):
        with pytest.raises(DriverError, match="far"):
            await adopt(settings, "rds/db-1", dry_run=dry_run)
    assert place.disk("db-1") == before


# The nodes that use it


def test_one_node_has_the_volume_for_itself_and_several_have_it_together() -> None:
    (one,) = attachments(["node-1#nqn.2014-08.org.nvmexpress:uuid:1"], needs_host_nqn=True)
    assert (one.node.host_nqn, one.access_mode) == (
        "nqn.2014-08.org.nvmexpress:uuid:1",
        AccessMode.SINGLE_NODE_WRITER,
    )
    assert one.token
    two = attachments(["node-1", "node-2", "node-1"], needs_host_nqn=False)
    assert [item.node.node_id for item in two] == ["node-1", "node-2"]
    assert {item.access_mode for item in two} == {AccessMode.MULTI_NODE_MULTI_WRITER}


def test_a_node_without_a_host_nqn_is_refused_where_the_array_needs_it() -> None:
    with pytest.raises(NotFound, match="host NQN"):
        attachments(["node-1"], needs_host_nqn=True)


def test_what_is_lost_is_told() -> None:
    told = describe(replace(ADOPTION, lost=("the nodes that it was attached to",)), dry_run=True)
    assert "# forgotten would be: the nodes that it was attached to" in told


async def test_nodes_and_no_nodes_do_not_go_together(place: Place) -> None:
    with pytest.raises(ConfigurationError, match="--not-attached"):
        await adopt(place.settings, "db-1", attached_to=["node-1"], not_attached=True)
