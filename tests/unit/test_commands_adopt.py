"""``rds-csi adopt``: what it prints, and that a dry run changes nothing."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rds_csi.arrays.routeros.objects import Adoption
from rds_csi.commands.adopt import adopt, describe, persistent_volume
from rds_csi.errors import ConfigurationError, DriverError
from rds_csi.model.sizes import GIB
from rds_csi.model.targets import NvmeTarget
from rds_csi.model.volumes import Volume
from rds_csi.settings import Settings, load_settings
from rds_csi.simulator.server import Simulator, SimulatorOptions

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


async def test_with_several_arrays_the_slot_names_its_array(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "arrays.toml"
    path.write_text(
        f'default = "images"\n[arrays.images]\nurl = "local://{tmp_path}/images"\n'
        f'[arrays.rds]\nurl = "{place.settings.array}"\n'
    )
    settings = load_settings({"array": f"config://{path}"})
    assert await adopt(settings, "rds/db-1", dry_run=True) == 0
    with pytest.raises(ConfigurationError, match="ARRAY/SLOT"):
        await adopt(settings, "db-1")
    with pytest.raises(ConfigurationError, match="no disks"):
        await adopt(settings, "images/db-1")
