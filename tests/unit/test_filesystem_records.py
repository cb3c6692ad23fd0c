"""Stage records on disk and in memory."""

import contextlib
import json
import logging
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.errors import DriverError, InvalidArgument
from rds_csi.filesystem.memory import MemoryStageRecords
from rds_csi.filesystem.protocol import StageRecords
from rds_csi.filesystem.records import FileStageRecords, from_json, to_json
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.records import FormatState, StageRecord
from rds_csi.model.targets import FileTarget, NvmeTarget
from rds_csi.workers import Workers

RECORD = StageRecord(
    volume_id="pvc-1",
    staging_path="/var/lib/kubelet/staging",
    target=NvmeTarget("nqn.2024-01.org.example:pvc-1", ("10.0.0.1", "10.0.0.2")),
    config=ConnectionConfig(ctrl_loss_tmo=600),
    size=1 << 30,
    attachment="token",
    boot_id="b00t",
)

TEXTS = st.text(max_size=40)
RECORDS = st.builds(
    StageRecord,
    volume_id=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True),
    staging_path=TEXTS,
    target=st.one_of(
        st.builds(
            NvmeTarget,
            nqn=st.just("nqn.2024-01.org.example:x"),
            addresses=st.lists(st.ip_addresses().map(str), min_size=1, max_size=3).map(tuple),
            port=st.integers(1, 65535),
            namespace_uuid=st.just("") | st.uuids().map(str),
        ),
        st.from_regex(r"/[a-z]{1,9}(/[a-z]{1,9}){0,3}", fullmatch=True).map(FileTarget),
    ),
    config=st.builds(ConnectionConfig, queue_size=st.integers(16, 1024), nr_io_queues=st.integers(0, 1024)),
    size=st.integers(0, (1 << 63) - 1),
    attachment=TEXTS,
    boot_id=TEXTS,
    block=st.booleans(),
    fs_type=TEXTS,
    fs_uuid=TEXTS,
    format_state=st.sampled_from(FormatState),
    block_targets=st.lists(TEXTS, max_size=3).map(tuple),
)


@pytest.fixture(params=["files", "memory"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> StageRecords:
    return FileStageRecords(str(tmp_path / "volumes"), Workers()) if request.param == "files" else MemoryStageRecords()


@given(RECORDS)
def test_a_record_survives_the_file(record: StageRecord) -> None:
    assert from_json(to_json(record)) == record


def test_every_field_is_in_the_file() -> None:
    assert len(json.loads(to_json(RECORD))) == len(fields(StageRecord)) + 1, "all fields, and the version"


@given(st.binary())
def test_no_file_content_upsets_the_reader(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        from_json(data)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | TEXTS, lambda inner: st.lists(inner, max_size=2))


@given(st.sampled_from(sorted(json.loads(to_json(RECORD)))), JSON)
def test_a_field_of_another_kind_is_damage_or_a_value(key: str, value: object) -> None:
    document = json.loads(to_json(RECORD))
    document[key] = value
    with contextlib.suppress(InvalidArgument):
        assert isinstance(from_json(json.dumps(document).encode()), StageRecord)


async def test_what_was_stored_is_loaded_until_it_is_removed(records: StageRecords) -> None:
    assert await records.load("pvc-1") is None
    assert await records.all() == ()
    await records.store(RECORD)
    await records.store(replace(RECORD, format_state=FormatState.FORMATTED))
    await records.store(replace(RECORD, volume_id="pvc-2"))
    loaded = await records.load("pvc-1")
    assert loaded is not None
    assert loaded.format_state is FormatState.FORMATTED
    assert [record.volume_id for record in await records.all()] == ["pvc-1", "pvc-2"]
    await records.remove("pvc-1")
    await records.remove("pvc-1")
    assert await records.load("pvc-1") is None


async def test_removing_takes_away_what_a_killed_writer_left(tmp_path: Path) -> None:
    records = FileStageRecords(str(tmp_path), Workers())
    await records.store(RECORD, durable=False)
    (tmp_path / ".new-pvc-1.json.x7q").write_bytes(b"{")
    (tmp_path / ".new-pvc-10.json.x7q").write_bytes(b"{")
    await records.remove("pvc-1")
    assert os.listdir(tmp_path) == [".new-pvc-10.json.x7q"]


async def test_a_damaged_record_counts_as_none_and_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = FileStageRecords(str(tmp_path), Workers())
    await records.store(RECORD)
    (tmp_path / "pvc-2.json").write_bytes(to_json(RECORD)[:40])
    (tmp_path / ".new-leftover").write_bytes(b"{}")
    with caplog.at_level(logging.WARNING):
        assert await records.load("pvc-2") is None
        assert await records.all() == (RECORD,)
    assert "pvc-2.json is damaged" in caplog.text


async def test_a_record_of_another_version_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "pvc-1.json").write_bytes(to_json(RECORD).replace(b'"version": 1', b'"version": 2'))
    assert await FileStageRecords(str(tmp_path), Workers()).load("pvc-1") is None


async def test_a_record_under_another_volumes_name_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "pvc-2.json").write_bytes(to_json(RECORD))
    assert await FileStageRecords(str(tmp_path), Workers()).load("pvc-2") is None


async def test_a_record_that_cannot_be_read_is_an_error_and_not_absent(tmp_path: Path) -> None:
    (tmp_path / "pvc-1.json").mkdir()
    records = FileStageRecords(str(tmp_path), Workers())
    with pytest.raises(DriverError, match="cannot be read"):
        await records.load("pvc-1")
    assert await records.all() == ()


@pytest.mark.parametrize("volume_id", ["../etc/passwd", "", "a/b", "A", "a" * 64])
async def test_an_id_that_is_none_makes_no_file_name(tmp_path: Path, volume_id: str) -> None:
    with pytest.raises(InvalidArgument):
        await FileStageRecords(str(tmp_path), Workers()).load(volume_id)
