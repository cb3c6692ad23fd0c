"""The array of image files: what a caller sees, on real files in a temporary directory."""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from rds_csi.arrays.images import kernel
from rds_csi.arrays.local import LocalArray, open_array
from rds_csi.arrays.protocol import Array, ArrayOptions
from rds_csi.errors import (
    AlreadyExists,
    ConfigurationError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
)
from rds_csi.model.host import HostPaths
from rds_csi.model.parameters import Provisioning
from rds_csi.model.sizes import GIB, MIB
from rds_csi.model.targets import FileTarget
from rds_csi.model.volumes import (
    AccessMode,
    Attachment,
    ContentSource,
    HealthStatus,
    Node,
    SourceKind,
    VolumeSpec,
)
from rds_csi.process import ProcessRunner
from rds_csi.workers import Workers


def _open(directory: Path) -> LocalArray:
    # A host without loop devices: /sys and /dev of a made-up tree.
    host = HostPaths(str(directory.parent / "host"))
    return open_array(f"local://{directory}", ArrayOptions(ProcessRunner(), Workers(), host, "nqn.2026-01.io.x:"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "array"


@pytest.fixture
async def array(directory: Path) -> AsyncIterator[LocalArray]:
    opened = _open(directory)
    await opened.start()
    yield opened
    await opened.close()


def _spec(
    volume_id: str = "v1",
    size: int = 4 * MIB,
    *,
    pool: str = "",
    provisioning: Provisioning = Provisioning.THIN,
    source: ContentSource | None = None,
    mutable_parameters: Mapping[str, str] = MappingProxyType({}),
) -> VolumeSpec:
    return VolumeSpec(volume_id, f"name of {volume_id}", size, provisioning, pool, source, mutable_parameters)


def _from_volume(volume_id: str) -> ContentSource:
    return ContentSource(SourceKind.VOLUME, volume_id)


def _from_snapshot(snapshot_id: str) -> ContentSource:
    return ContentSource(SourceKind.SNAPSHOT, snapshot_id)


def _image(array_directory: Path, volume_id: str) -> Path:
    return array_directory / "volumes" / f"{volume_id}.img"


def _snapshot_image(array_directory: Path, snapshot_id: str) -> Path:
    return array_directory / "snapshots" / f"{snapshot_id}.img"


def _attachment(node_id: str, token: str = "t") -> Attachment:
    return Attachment(Node(node_id), token, AccessMode.SINGLE_NODE_WRITER)


def _files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_local_array_is_an_array() -> None:
    kind: type[Array] = LocalArray
    assert kind is LocalArray


async def test_create_makes_a_sparse_image_of_the_exact_size(array: LocalArray, directory: Path) -> None:
    volume = await array.create_volume(_spec(size=7 * MIB))
    image = _image(directory, "v1")
    assert volume.size == 7 * MIB
    assert volume.target == FileTarget(str(image))
    assert image.stat().st_size == 7 * MIB
    assert image.stat().st_blocks * 512 < MIB
    assert image.stat().st_mode & 0o077 == 0


async def test_thin_volume_may_be_larger_than_the_free_space(array: LocalArray) -> None:
    volume = await array.create_volume(_spec(size=1024 * GIB))
    assert volume.size == 1024 * GIB


async def test_thick_volume_has_its_blocks(array: LocalArray, directory: Path) -> None:
    await array.create_volume(_spec(size=8 * MIB, provisioning=Provisioning.THICK))
    assert _image(directory, "v1").stat().st_blocks * 512 >= 8 * MIB
    grown = await array.expand_volume("v1", 12 * MIB)
    assert grown.size == 12 * MIB
    assert _image(directory, "v1").stat().st_size == 12 * MIB
    assert _image(directory, "v1").stat().st_blocks * 512 >= 12 * MIB


async def test_thick_volume_without_room_is_refused_and_leaves_nothing(array: LocalArray, directory: Path) -> None:
    before = _files(directory)
    with pytest.raises(ResourceExhausted, match="not free"):
        await array.create_volume(_spec(size=1024 * 1024 * GIB, provisioning=Provisioning.THICK))
    assert _files(directory) == before
    assert await array.list_volumes() == []


async def test_thick_growth_without_room_leaves_the_volume_as_it_was(array: LocalArray, directory: Path) -> None:
    await array.create_volume(_spec(size=2 * MIB, provisioning=Provisioning.THICK))
    with pytest.raises(ResourceExhausted):
        await array.expand_volume("v1", 1024 * 1024 * GIB)
    assert (await array.get_volume("v1")).size == 2 * MIB
    assert _image(directory, "v1").stat().st_size == 2 * MIB


async def test_volume_beyond_the_largest_file_is_out_of_range(array: LocalArray, directory: Path) -> None:
    maximum = array.traits.maximum_volume_size
    assert maximum % MIB == 0
    before = _files(directory)
    if maximum < (1 << 63) - MIB:
        with pytest.raises(OutOfRange):
            await array.create_volume(_spec(size=maximum + MIB))
    assert _files(directory) == before
    assert (await array.create_volume(_spec(size=maximum))).size == maximum


async def test_create_again_returns_the_volume_as_it_is(array: LocalArray) -> None:
    first = await array.create_volume(_spec(mutable_parameters={"queueSize": "64"}))
    again = await array.create_volume(_spec(size=9 * MIB, provisioning=Provisioning.THICK))
    assert again == first


async def test_unknown_pool_is_refused_by_name(array: LocalArray) -> None:
    with pytest.raises(InvalidArgument, match="'gold'"):
        await array.create_volume(_spec(pool="gold"))
    with pytest.raises(InvalidArgument, match="'gold'"):
        await array.capacity("gold")


async def test_unknown_source_is_not_found(array: LocalArray, directory: Path) -> None:
    before = _files(directory)
    with pytest.raises(NotFound, match="no-such"):
        await array.create_volume(_spec(source=_from_snapshot("no-such")))
    with pytest.raises(NotFound, match="no-such"):
        await array.create_volume(_spec(source=_from_volume("no-such")))
    with pytest.raises(NotFound, match="no-such"):
        await array.create_snapshot("s1", "s1", "no-such")
    assert _files(directory) == before


async def test_volume_smaller_than_its_source_is_refused(array: LocalArray) -> None:
    await array.create_volume(_spec("v1", 8 * MIB))
    with pytest.raises(OutOfRange, match="smaller than its source"):
        await array.create_volume(_spec("v2", 4 * MIB, source=_from_volume("v1")))


async def test_clone_has_the_content_and_then_a_life_of_its_own(array: LocalArray, directory: Path) -> None:
    await array.create_volume(_spec("v1", 4 * MIB))
    _image(directory, "v1").write_bytes(b"a" * MIB + bytes(2 * MIB) + b"b" * MIB)
    clone = await array.create_volume(_spec("v2", 6 * MIB, source=_from_volume("v1")))
    assert clone.source == _from_volume("v1")
    with _image(directory, "v1").open("r+b") as stream:
        stream.write(b"changed")
    content = _image(directory, "v2").read_bytes()
    assert content == b"a" * MIB + bytes(2 * MIB) + b"b" * MIB + bytes(2 * MIB)
    assert _image(directory, "v2").stat().st_blocks * 512 < 3 * MIB


async def test_thick_clone_has_blocks_of_its_own(array: LocalArray, directory: Path) -> None:
    await array.create_volume(_spec("v1", 4 * MIB))
    _image(directory, "v1").write_bytes(b"a" * 4 * MIB)
    await array.create_volume(_spec("v2", 8 * MIB, source=_from_volume("v1"), provisioning=Provisioning.THICK))
    assert _image(directory, "v2").read_bytes() == b"a" * 4 * MIB + bytes(4 * MIB)
    with _image(directory, "v2").open("rb") as stream:
        assert kernel.shared_bytes(stream.fileno()) == 0
    assert _image(directory, "v2").stat().st_blocks * 512 >= 8 * MIB


async def test_snapshot_keeps_the_content_of_its_moment(array: LocalArray, directory: Path) -> None:
    await array.create_volume(_spec("v1"))
    _image(directory, "v1").write_bytes(b"1" * 4 * MIB)
    snapshot = await array.create_snapshot("s1", "first", "v1")
    assert (snapshot.size, snapshot.source_volume_id, snapshot.ready) == (4 * MIB, "v1", True)
    _image(directory, "v1").write_bytes(b"2" * 4 * MIB)
    await array.create_volume(_spec("v2", source=_from_snapshot("s1")))
    assert _image(directory, "v2").read_bytes() == b"1" * 4 * MIB
    assert await array.create_snapshot("s1", "other", "v2") == snapshot


async def test_volume_snapshot_and_clone_go_in_any_order(array: LocalArray, directory: Path) -> None:
    await array.create_volume(_spec("v1"))
    _image(directory, "v1").write_bytes(b"1" * 4 * MIB)
    await array.create_snapshot("s1", "s1", "v1")
    await array.create_volume(_spec("v2", source=_from_snapshot("s1")))
    await array.delete_volume("v1")
    assert (await array.get_snapshot("s1")).source_volume_id == "v1"
    await array.delete_snapshot("s1")
    assert _image(directory, "v2").read_bytes() == b"1" * 4 * MIB
    await array.delete_volume("v2")
    assert _files(directory) == ["lock"]


async def test_deletions_of_what_is_absent_are_fine(array: LocalArray) -> None:
    await array.delete_volume("v1")
    await array.delete_snapshot("s1")
    await array.delete_group("g1")
    await array.detach_volume("v1", "n1")


async def test_what_is_absent_is_not_found(array: LocalArray) -> None:
    for look in (array.get_volume, array.get_snapshot, array.get_group, array.health):
        with pytest.raises(NotFound):
            await look("x")
    with pytest.raises(NotFound):
        await array.expand_volume("x", MIB)
    with pytest.raises(NotFound):
        await array.modify_volume("x", {})
    with pytest.raises(NotFound):
        await array.attach_volume("x", _attachment("n1"))


async def test_expand_rounds_up_and_never_shrinks(array: LocalArray, directory: Path) -> None:
    await array.create_volume(_spec(size=4 * MIB))
    assert (await array.expand_volume("v1", 5 * MIB + 1)).size == 6 * MIB
    assert (await array.expand_volume("v1", MIB)).size == 6 * MIB
    assert _image(directory, "v1").stat().st_size == 6 * MIB


async def test_attachments_are_kept_and_forbid_deletion(array: LocalArray, directory: Path) -> None:
    await array.create_volume(_spec())
    await array.attach_volume("v1", _attachment("n1", "t1"))
    await array.attach_volume("v1", _attachment("n2"))
    volume = await array.attach_volume("v1", _attachment("n1", "t2"))
    assert {(item.node.node_id, item.token) for item in volume.attachments} == {("n1", "t2"), ("n2", "t")}
    with pytest.raises(FailedPrecondition, match="attached to n2, n1"):
        await array.delete_volume("v1")
    await array.detach_volume("v1", "n1")
    await array.detach_volume("v1", "")
    assert (await array.get_volume("v1")).attachments == ()
    await array.delete_volume("v1")
    assert _files(directory) == ["lock"]


async def test_everything_survives_a_restart(array: LocalArray, directory: Path) -> None:
    await array.create_volume(_spec(mutable_parameters={"queueSize": "64"}, provisioning=Provisioning.THICK))
    await array.create_volume(_spec("v2", source=_from_volume("v1")))
    await array.attach_volume("v1", _attachment("n1"))
    await array.modify_volume("v2", {"nrIoQueues": "2"})
    await array.create_snapshot("s1", "s1", "v1")
    await array.create_group("g1", "g1", ["v1", "v2"])
    before = (await array.list_volumes(), await array.list_snapshots(), await array.get_group("g1"))
    await array.close()
    again = _open(directory)
    await again.start()
    assert (await again.list_volumes(), await again.list_snapshots(), await again.get_group("g1")) == before
    await again.close()


async def test_group_is_all_or_nothing(array: LocalArray, directory: Path) -> None:
    for volume_id in ("v1", "v2"):
        await array.create_volume(_spec(volume_id))
        _image(directory, volume_id).write_bytes(volume_id.encode() * (2 * MIB))
    before = _files(directory)
    with pytest.raises(NotFound):
        await array.create_group("g1", "g1", ["v1", "v2", "no-such"])
    _image(directory, "v2").rename(directory / "away")
    with pytest.raises(Unavailable):
        await array.create_group("g1", "g1", ["v1", "v2"])
    (directory / "away").rename(_image(directory, "v2"))
    assert _files(directory) == before
    group = await array.create_group("g1", "g1", ["v1", "v2"])
    assert [snapshot.source_volume_id for snapshot in group.snapshots] == ["v1", "v2"]
    assert {snapshot.group_id for snapshot in group.snapshots} == {"g1"}
    assert len({snapshot.created for snapshot in group.snapshots}) == 1
    assert await array.create_group("g1", "g1", ["v2"]) == group
    assert await array.list_snapshots() == sorted(group.snapshots, key=lambda item: item.snapshot_id)
    with pytest.raises(InvalidArgument, match="part of the group"):
        await array.delete_snapshot(group.snapshots[0].snapshot_id)
    await array.delete_group("g1")
    assert _files(directory) == before


async def test_group_never_takes_over_a_snapshot_of_its_own_right(array: LocalArray) -> None:
    await array.create_volume(_spec("v1"))
    await array.create_snapshot("g1-v1", "mine", "v1")
    with pytest.raises(AlreadyExists):
        await array.create_group("g1", "g1", ["v1"])
    assert (await array.get_snapshot("g1-v1")).name == "mine"


async def test_group_without_volumes_is_refused(array: LocalArray) -> None:
    with pytest.raises(InvalidArgument):
        await array.create_group("g1", "g1", [])


@pytest.fixture
def copying_directory() -> Iterator[Path]:
    """On a tmpfs (shm_overview(7)), which has no reflink: there everything is copied, wherever tests run."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as parent:
        yield Path(parent, "array")


async def test_a_copy_that_writers_overtake_is_refused_not_kept(copying_directory: Path) -> None:
    array = _open(copying_directory)
    await array.start()
    await array.create_volume(_spec("v1", 4 * MIB))
    done = asyncio.Event()

    async def write_on() -> None:
        with _image(copying_directory, "v1").open("r+b", buffering=0) as stream:
            while not done.is_set():
                stream.seek(0)
                stream.write(os.urandom(4096))
                await asyncio.sleep(0)

    writer = asyncio.create_task(write_on())
    before = _files(copying_directory)
    try:
        with pytest.raises(Unavailable, match="was written to during"):
            await array.create_snapshot("s1", "s1", "v1")
    finally:
        done.set()
        await writer
    assert _files(copying_directory) == before
    assert (await array.create_snapshot("s1", "s1", "v1")).ready
    await array.close()


async def test_second_array_on_the_directory_is_refused(array: LocalArray, directory: Path) -> None:
    with pytest.raises(ConfigurationError, match="in use by another process"):
        await _open(directory).start()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2}', b"\xff\xfe"])
async def test_damaged_record_is_an_error_that_names_the_file(directory: Path, content: bytes) -> None:
    array = _open(directory)
    await array.start()
    await array.create_volume(_spec("v1"))
    await array.create_volume(_spec("v2"))
    await array.close()
    (directory / "volumes" / "v1.json").write_bytes(content)
    array = _open(directory)
    await array.start()
    for call in (
        array.get_volume("v1"),
        array.list_volumes(),
        array.create_volume(_spec("v1")),
        array.delete_volume("v1"),
        array.health("v1"),
    ):
        with pytest.raises(Internal, match=r"v1\.json is damaged"):
            await call
    assert _image(directory, "v1").exists()
    assert (await array.get_volume("v2")).volume_id == "v2"
    assert [finding.ok for finding in await array.check() if finding.subject == "record"] == [False]
    await array.close()


async def test_record_of_another_id_is_damaged(array: LocalArray, directory: Path) -> None:
    await array.create_volume(_spec("v1"))
    await array.close()
    os.rename(directory / "volumes" / "v1.json", directory / "volumes" / "v9.json")
    again = _open(directory)
    await again.start()
    with pytest.raises(Internal, match="record of 'v1'"):
        await again.get_volume("v9")
    await again.close()


async def test_image_without_record_is_neither_taken_nor_removed(array: LocalArray, directory: Path) -> None:
    _image(directory, "v1").write_bytes(b"precious")
    with pytest.raises(FailedPrecondition, match="no record accounts for it"):
        await array.create_volume(_spec("v1"))
    await array.delete_volume("v1")
    assert _image(directory, "v1").read_bytes() == b"precious"
    assert any(not finding.ok and "v1.img" in finding.message for finding in await array.check())


async def test_start_removes_temporary_files_and_nothing_else(array: LocalArray, directory: Path) -> None:
    await array.close()
    (directory / "volumes" / ".new-abc").write_bytes(b"half")
    (directory / "volumes" / "notes.txt").write_bytes(b"mine")
    again = _open(directory)
    await again.start()
    assert _files(directory) == ["lock", "volumes/notes.txt"]
    await again.close()


async def test_start_writes_down_a_growth_that_was_cut_off(array: LocalArray, directory: Path) -> None:
    await array.create_volume(_spec("v1", 4 * MIB))
    await array.close()
    os.truncate(_image(directory, "v1"), 8 * MIB)
    again = _open(directory)
    await again.start()
    assert (await again.get_volume("v1")).size == 8 * MIB
    await again.close()


async def test_health_names_what_is_wrong_with_the_image(array: LocalArray, directory: Path) -> None:
    await array.create_volume(_spec("v1", 4 * MIB))
    assert list(await array.health("v1")) == []
    os.truncate(_image(directory, "v1"), MIB)
    assert [(item.status, item.reason) for item in await array.health("v1")] == [
        (HealthStatus.DATA_LOSS, "ImageTruncated")
    ]
    _image(directory, "v1").unlink()
    assert [item.reason for item in await array.health("v1")] == ["ImageMissing"]


def _replace(directory: Path) -> None:
    directory.rename(directory.parent / "elsewhere")
    directory.mkdir()


async def test_health_tells_a_directory_that_was_replaced(array: LocalArray, directory: Path) -> None:
    await array.create_volume(_spec("v1", 4 * MIB))
    _replace(directory)
    assert [(item.status, item.reason) for item in await array.health("v1")] == [
        (HealthStatus.INACCESSIBLE, "DirectoryReplaced")
    ]
    assert [finding.ok for finding in await array.check()] == [False]


async def test_capacity_is_what_the_filesystem_has_free(array: LocalArray, directory: Path) -> None:
    status = os.statvfs(directory)
    capacity = await array.capacity("")
    assert abs(capacity.available - status.f_bavail * status.f_frsize) < GIB
    assert capacity.minimum_volume_size == MIB
    assert capacity.maximum_volume_size <= capacity.available


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("local://", "directory is missing"),
        ("local:///", "root directory"),
        ("local:relative", "not an absolute path"),
        ("local://host/dir", "names a host"),
        ("local:///tmp/../etc", "climbs"),
        ("local:///no/such/parent", "is not a directory"),
        ("local:///dev/null/array", "is not a directory"),
        ("local:///dev/null", "cannot be used"),
        ("local:///proc/array", "cannot be used"),
        ("local:///tmp?pool=x", "unknown key 'pool'"),
        ("local:///tmp#x", "fragment"),
        ("local:///tmp%00x", "control characters"),
    ],
)
def test_wrong_url_is_told_in_one_sentence(tmp_path: Path, url: str, text: str) -> None:
    options = ArrayOptions(ProcessRunner(), Workers(), HostPaths(str(tmp_path)), "nqn.2026-01.io.x:")
    with pytest.raises(ConfigurationError, match=text) as error:
        open_array(url, options)
    assert "\n" not in str(error.value)
    assert error.value.remedy


async def test_before_start_the_array_is_unavailable(directory: Path) -> None:
    array = _open(directory)
    with pytest.raises(Unavailable):
        await array.get_volume("v1")
    assert [finding.ok for finding in await array.check()] == [False]


async def test_cancelled_creation_runs_to_its_end(array: LocalArray) -> None:
    creation = asyncio.create_task(array.create_volume(_spec("v1")))
    await asyncio.sleep(0)
    creation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creation
    assert (await array.get_volume("v1")).volume_id == "v1"


async def test_many_volumes_at_once(array: LocalArray) -> None:
    await asyncio.gather(*(array.create_volume(_spec(f"v{number:03}")) for number in range(50)))
    assert [volume.volume_id for volume in await array.list_volumes()] == [f"v{number:03}" for number in range(50)]


async def test_record_keeps_its_form_on_disk(array: LocalArray, directory: Path) -> None:
    """What an older or newer driver of this schema wrote must stay readable: this is the form of version 1."""
    await array.create_volume(_spec(mutable_parameters={"queueSize": "64"}))
    await array.attach_volume(
        "v1", Attachment(Node("n1", "nqn.2014-08.org.nvmexpress:x"), "t", AccessMode("SINGLE_NODE_WRITER"))
    )
    assert json.loads((directory / "volumes" / "v1.json").read_text()) == {
        "version": 1,
        "id": "v1",
        "name": "name of v1",
        "size": 4 * MIB,
        "state": "ready",
        "provisioning": "thin",
        "source": None,
        "mutable_parameters": {"queueSize": "64"},
        "attachments": [
            {
                "node": {"node_id": "n1", "host_nqn": "nqn.2014-08.org.nvmexpress:x"},
                "token": "t",
                "access_mode": "SINGLE_NODE_WRITER",
                "readonly": False,
            }
        ],
        "export": None,
    }
