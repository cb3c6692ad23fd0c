"""Sightings: kept over a restart, worth nothing in another boot, and never a reason to fail."""

import json
import logging
import os
from pathlib import Path

import pytest

from rds_csi.nvme.decision import Hang, Kind, Sighting
from rds_csi.nvme.sightings import Sightings, boottime
from rds_csi.workers import Workers

V0 = Sighting("nqn.x:v0", "nvme-subsys0", ("nvme0", "nvme1"), Kind.AWAY)
V1 = Sighting("nqn.x:v1", "nvme-subsys1", ("nvme2",), Kind.EMPTY)
NOBODY: frozenset[str] = frozenset()


def opened(directory: Path, *, boot_id: str = "b", now: float = 1000.0) -> Sightings:
    return Sightings(Workers(), path=str(directory / "state" / "sightings.json"), boot_id=boot_id, now=lambda: now)


async def test_a_first_sighting_is_kept_over_a_restart(tmp_path: Path) -> None:
    sightings = opened(tmp_path)
    await sightings.load()
    sightings.update([V0], NOBODY, 10.0)
    sightings.update([V0, V1], NOBODY, 20.0)
    sightings.note_hang("nqn.x:v2", Hang(("nvme9",), 15.0))
    await sightings.store()

    again = opened(tmp_path)
    await again.load()

    assert dict(again.first_seen) == {V0: 10.0, V1: 20.0}
    assert dict(again.hangs) == {"nqn.x:v2": Hang(("nvme9",), 15.0)}


def test_what_was_seen_well_in_between_is_forgotten(tmp_path: Path) -> None:
    sightings = opened(tmp_path)
    sightings.update([V0, V1], NOBODY, 10.0)
    sightings.update([V1], NOBODY, 20.0)
    sightings.update([V0, V1], NOBODY, 30.0)
    assert dict(sightings.first_seen) == {V0: 30.0, V1: 10.0}


def test_what_could_not_be_looked_at_is_neither_forgotten_nor_seen(tmp_path: Path) -> None:
    sightings = opened(tmp_path)
    sightings.update([V0], NOBODY, 10.0)
    sightings.update([], frozenset({V0.nqn, V1.nqn}), 20.0)
    assert dict(sightings.first_seen) == {V0: 10.0}


def test_a_successor_of_what_was_disconnected_is_seen_for_the_first_time(tmp_path: Path) -> None:
    sightings = opened(tmp_path)
    sightings.update([V0, V1], NOBODY, 10.0)
    sightings.forget(V0.nqn)
    sightings.update([V0, V1], NOBODY, 20.0)
    assert dict(sightings.first_seen) == {V0: 20.0, V1: 10.0}


def test_a_hang_ends_with_the_controllers(tmp_path: Path) -> None:
    sightings = opened(tmp_path)
    for nqn in ("a", "b", "c"):
        sightings.note_hang(nqn, Hang(("nvme0",), 1.0))
    sightings.keep_hangs({"a": frozenset({("nvme0",)}), "b": frozenset({("nvme7",)})})
    assert set(sightings.hangs) == {"a"}


async def test_sightings_of_another_boot_are_worth_nothing(tmp_path: Path) -> None:
    sightings = opened(tmp_path)
    sightings.update([V0], NOBODY, 10.0)
    await sightings.store()
    other = opened(tmp_path, boot_id="c")
    await other.load()
    assert not other.first_seen


def _document(**changes: object) -> bytes:
    item = {"nqn": "n", "subsystem": "s", "controllers": ["nvme0"], "kind": "away", "firstSeen": 1.0}
    item |= {key: value for key, value in changes.items() if key in item}
    document = {"version": 1, "bootId": "b", "sightings": [item], "hangs": []}
    return json.dumps(document | {key: value for key, value in changes.items() if key in document}).encode()


DAMAGED = {
    "empty": b"\x00" * 100,
    "torn": _document()[:-20],
    "not an object": b"[1]",
    "deep": b"[" * 100_000,
    "no UTF-8": b"\xff\xfe",
    "another version": _document(version=2),
    "without its parts": b'{"version": 1, "bootId": "b"}',
    "not a list": _document(sightings=3),
    "an unknown kind": _document(kind="strange"),
    "a moment to come": _document(firstSeen=1e9),
    "a moment before the boot": _document(firstSeen=-1),
    "no moment": _document(firstSeen="now"),
    "not a number": _document().replace(b"1.0", b"NaN"),
    "controllers that are none": _document(controllers=7),
    "hangs of another form": _document(hangs=[["n"]]),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
async def test_a_damaged_file_counts_as_none(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/sightings.json").write_bytes(data)
    sightings = opened(tmp_path)

    with caplog.at_level(logging.WARNING):
        await sightings.load()

    assert not sightings.first_seen
    assert not sightings.hangs
    assert "counts as none" in caplog.text
    sightings.update([V0], NOBODY, 10.0)
    await sightings.store()
    again = opened(tmp_path)
    await again.load()
    assert dict(again.first_seen) == {V0: 10.0}


async def test_a_whole_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/sightings.json").write_bytes(_document())
    sightings = opened(tmp_path)
    await sightings.load()
    assert dict(sightings.first_seen) == {Sighting("n", "s", ("nvme0",), Kind.AWAY): 1.0}


async def test_what_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").touch()
    sightings = opened(tmp_path)
    for moment in (10.0, 20.0):
        sightings.update([V0] if moment == 10.0 else [V1], NOBODY, moment)
        with caplog.at_level(logging.WARNING):
            await sightings.store()
    assert caplog.text.count("cannot be written") == 1
    (tmp_path / "state").unlink()
    await sightings.store()
    again = opened(tmp_path)
    await again.load()
    assert dict(again.first_seen) == {V1: 20.0}


async def test_nothing_is_written_as_long_as_there_is_nothing_to_remember(tmp_path: Path) -> None:
    sightings = opened(tmp_path)
    await sightings.load()
    await sightings.store()
    assert not (tmp_path / "state").exists()


async def test_nothing_is_written_twice(tmp_path: Path) -> None:
    sightings = opened(tmp_path)
    sightings.update([V0], NOBODY, 10.0)
    await sightings.store()
    path = tmp_path / "state/sightings.json"
    inode = path.stat().st_ino
    sightings.update([V0], NOBODY, 20.0)
    await sightings.store()
    assert path.stat().st_ino == inode
    sightings.update([], NOBODY, 30.0)
    await sightings.store()
    assert json.loads(path.read_text())["sightings"] == []


@pytest.mark.parametrize(("path", "boot_id"), [("", "b"), ("state/sightings.json", "")], ids=["no path", "no boot id"])
async def test_without_a_place_or_a_boot_they_live_in_memory(tmp_path: Path, path: str, boot_id: str) -> None:
    sightings = Sightings(Workers(), path=path and str(tmp_path / path), boot_id=boot_id)
    await sightings.load()
    sightings.update([V0], NOBODY, 10.0)
    await sightings.store()
    assert dict(sightings.first_seen) == {V0: 10.0}
    assert os.listdir(tmp_path) == []


def test_the_clock_is_that_of_the_boot() -> None:
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert abs(boottime() - uptime) < 60
