"""A RouterOS array set up wrongly, away, full, or touched by hand: each is told as what it is, and nothing is lost."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import fields, is_dataclass
from pathlib import Path

import asyncssh
import pytest

from rds_csi.arrays.routeros.array import RouterosArray, open_array
from rds_csi.arrays.routeros.errors import BadCredentials, HostKeyMismatch, NotPermitted, TlsMistrust
from rds_csi.arrays.routeros.mark import Kind
from rds_csi.deadline import set_deadline
from rds_csi.errors import (
    AlreadyExists,
    DeadlineExceeded,
    DriverError,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from rds_csi.model.sizes import GIB
from rds_csi.model.volumes import ContentSource, SourceKind, VolumeSpec
from rds_csi.retry import Clock
from rds_csi.simulator.device_options import DeviceOptions, GroupOptions
from rds_csi.simulator.faults import Fault, FaultKind
from rds_csi.simulator.options import DRIVER_GROUP, SimulatorOptions
from rds_csi.simulator.server import Simulator
from tests.support.routeros_world import BTRFS, POOL_SIZE, SIZE, TRANSPORTS, XFS, World, world

pytestmark = pytest.mark.timeout(60)

SPEC = VolumeSpec("v1", "v1", SIZE)
# What a call of somebody who is not to lose anything must never be told.
both = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture
async def one_world(tmp_path: Path) -> AsyncIterator[World]:
    """In the end, everything of others is as it was."""
    async with world(tmp_path) as made:
        before = made.foreign()
        yield made
        assert made.foreign() == before


async def fails(array: RouterosArray, error: type[DriverError], *words: str) -> None:
    """Every kind of call fails alike, and the check tells the same."""
    calls = (
        array.create_volume(SPEC),
        array.delete_volume("v1"),
        array.get_volume("v1"),
        array.list_volumes(),
        array.capacity(""),
        array.health("v1"),
    )
    texts = []
    for call in calls:
        with pytest.raises(error) as caught:
            await call
        assert not isinstance(caught.value, NotFound)
        texts.append(str(caught.value))
    (finding,) = [each for each in await array.check() if not each.ok]
    texts.append(f"{finding.message} {finding.remedy}")
    for text in texts:
        for word in words:
            assert word in text


async def limited(call: Awaitable[object], seconds: float) -> object:
    """The call, with so much time."""
    set_deadline(time.monotonic() + seconds)
    return await call


async def life(array: RouterosArray) -> None:
    """A volume comes and goes."""
    assert (await array.create_volume(SPEC)).size == SIZE
    assert [each.volume_id for each in await array.list_volumes()] == ["v1"]
    await array.delete_volume("v1")


class TestIdentity:
    async def test_another_host_key_is_told_and_the_right_one_works_at_once(self, one_world: World) -> None:
        path = one_world.files.known_hosts
        right = path.read_text()
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
        path.write_text(f"{right.split()[0]} {other}")
        async with one_world.array("ssh") as array:
            await fails(array, HostKeyMismatch, "host key", "SHA256:", "/ip/ssh/print")
            path.write_text(right)
            await life(array)

    async def test_a_refused_key_is_told_and_the_right_one_works_at_once(self, one_world: World) -> None:
        path = one_world.files.client_key
        right = path.read_bytes()
        path.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
        async with one_world.array("ssh") as array:
            await fails(array, BadCredentials, "refused the key", "/user/ssh-keys/import")
            path.write_bytes(right)
            await life(array)

    async def test_a_wrong_password_is_told_and_the_right_one_works_at_once(self, one_world: World) -> None:
        path = one_world.files.password
        right = path.read_text()
        path.write_text("wrong\n")
        async with one_world.array("https") as array:
            await fails(array, BadCredentials, "does not let the user csi in")
            path.write_text(right)
            await life(array)

    async def test_an_expired_certificate_is_told(self, tmp_path: Path) -> None:
        async with world(tmp_path, certificate_days=-2) as made, made.array("https") as array:
            await fails(array, TlsMistrust, "certificate", "expired", "Renew")

    async def test_another_certificate_than_the_pinned_one_is_told(self, one_world: World) -> None:
        async with one_world.array("https", tls_ca="", tls_fingerprint="0" * 64) as array:
            await fails(array, TlsMistrust, one_world.simulator.tls_fingerprint)
        async with one_world.array("https", tls_ca="", tls_fingerprint=one_world.simulator.tls_fingerprint) as array:
            await life(array)


class TestDevice:
    @both
    @pytest.mark.parametrize("version", ["7.15", "7.17"])
    async def test_an_old_version_is_refused_and_the_needed_one_named(
        self, tmp_path: Path, transport: str, version: str
    ) -> None:
        async with world(tmp_path, version=version) as made, made.array(transport) as array:
            await fails(array, FailedPrecondition, f"RouterOS {version}", "7.21", "Upgrade RouterOS")
            assert made.census().disks == {}

    @both
    async def test_a_missing_rose_storage_is_told(self, tmp_path: Path, transport: str) -> None:
        device = DeviceOptions(tmp_path / "device", version="7.24", packages=("routeros",))
        async with world(tmp_path, device=device) as made, made.array(transport) as array:
            await fails(array, FailedPrecondition, "rose-storage", "Install")

    @both
    async def test_a_user_who_may_not_write_is_told_which_policy_is_missing(
        self, tmp_path: Path, transport: str
    ) -> None:
        group = GroupOptions(DRIVER_GROUP.name, DRIVER_GROUP.policies - {"write"})
        async with world(tmp_path, groups=(group,)) as made, made.array(transport) as array:
            assert list(await array.list_volumes()) == []
            with pytest.raises(FailedPrecondition, match=r"polic.*write"):
                await array.create_volume(SPEC)
            with pytest.raises(NotFound):
                await array.get_volume("v1")
            assert made.is_bare(), made.census()

    @pytest.mark.parametrize(("transport", "policy"), [("ssh", "ssh"), ("https", "rest-api"), ("https", "api")])
    async def test_a_user_who_may_not_use_the_transport_is_told(
        self, tmp_path: Path, transport: str, policy: str
    ) -> None:
        group = GroupOptions(DRIVER_GROUP.name, DRIVER_GROUP.policies - {policy})
        async with world(tmp_path, groups=(group,)) as made, made.array(transport) as array:
            # Over SSH nothing tells that from a key that is not known.
            await fails(array, (BadCredentials, NotPermitted), "csi" if transport == "ssh" else policy)  # type: ignore[arg-type]  # pytest.raises takes several


class TestPool:
    @both
    async def test_a_pool_that_is_not_there_is_told_by_its_name(self, one_world: World, transport: str) -> None:
        async with one_world.array(transport, pool="raid20") as array:
            for call in (array.create_volume(SPEC), array.delete_volume("v1")):
                with pytest.raises(FailedPrecondition, match="raid20"):
                    await call
            with pytest.raises(Unavailable, match="raid20"):
                await array.capacity("")
            (finding,) = [each for each in await array.check() if not each.ok]
            assert "raid20" in finding.message
        assert one_world.census().disks == {}

    @both
    @pytest.mark.parametrize("known", [True, False], ids=["seen-before", "never-seen"])
    async def test_a_pool_that_is_gone_loses_nothing_and_is_used_again_when_it_is_back(
        self, one_world: World, transport: str, known: bool
    ) -> None:
        switches = one_world.simulator.device.switches
        async with one_world.array(transport) as array:
            await array.create_volume(SPEC)
            one_world.write("v1", b"precious")
            async with one_world.array(transport) as fresh:
                used = array if known else fresh
                switches.pool_unmounted = True
                with pytest.raises(Unavailable):
                    await used.create_volume(VolumeSpec("v2", "v2", SIZE))
                with pytest.raises(Unavailable):
                    await used.capacity("")
                # Whatever the device shows of a disk without its pool: it is there.
                assert (await used.get_volume("v1")).volume_id == "v1"
                assert [each.volume_id for each in await used.list_volumes()] == ["v1"]
                assert {each.reason for each in await used.health("v1")} >= {"PoolNotMounted"}
                switches.pool_unmounted = False
                assert one_world.read("v1", 8) == b"precious"
                await used.create_volume(VolumeSpec("v2", "v2", SIZE))
                for volume_id in ("v1", "v2"):
                    await used.delete_volume(volume_id)
        assert one_world.is_bare(), one_world.census()

    @both
    @pytest.mark.parametrize("layout", [XFS, BTRFS])
    async def test_a_deletion_while_the_pool_is_gone_is_not_told_to_be_done(
        self, one_world: World, transport: str, layout: str
    ) -> None:
        snapshots = "btrfs-subvolume" if layout == BTRFS else "none"
        switches = one_world.simulator.device.switches
        async with one_world.array(transport, pool=layout, snapshots=snapshots) as array:
            await array.create_volume(SPEC)
            switches.pool_unmounted = True
            for _ in range(2):
                with pytest.raises((Unavailable, FailedPrecondition)):
                    await array.delete_volume("v1")
            switches.pool_unmounted = False
            await array.delete_volume("v1")
        assert one_world.is_bare(), one_world.census()

    @both
    async def test_a_full_pool_is_told_and_nothing_is_left(self, one_world: World, transport: str) -> None:
        async with one_world.array(transport) as array:
            with pytest.raises(ResourceExhausted, match="Make room"):
                await array.create_volume(VolumeSpec("v1", "v1", POOL_SIZE + GIB))
            assert one_world.census().disks == {}
            await array.create_volume(SPEC)
            with pytest.raises(ResourceExhausted):
                await array.expand_volume("v1", POOL_SIZE)
            assert (await array.get_volume("v1")).size == SIZE
            await array.delete_volume("v1")
        assert one_world.is_bare(), one_world.census()

    @both
    async def test_no_copy_is_begun_that_the_pool_has_no_room_for(self, one_world: World, transport: str) -> None:
        async with one_world.array(transport, snapshots="file-copy") as array:
            await array.create_volume(VolumeSpec("v1", "v1", POOL_SIZE * 3 // 4))
            with pytest.raises(ResourceExhausted):
                await array.create_snapshot("s1", "s1", "v1")
            source = ContentSource(SourceKind.VOLUME, "v1")
            with pytest.raises(ResourceExhausted):
                await array.create_volume(VolumeSpec("v2", "v2", POOL_SIZE * 3 // 4, source=source))
            assert list(await array.list_snapshots()) == []
            await array.delete_volume("v1")
        assert one_world.is_bare(), one_world.census()


class TestAway:
    @both
    async def test_an_array_that_is_away_at_the_start_is_used_when_it_is_there(
        self, tmp_path: Path, transport: str
    ) -> None:
        simulator = Simulator(SimulatorOptions(directory=tmp_path / "device"))
        async with simulator:
            first = World(simulator, tmp_path / "credentials")
            url, options = first.url(transport), first.options()
        array = open_array(url, options)
        await array.start()
        try:
            for call in (array.get_volume("v1"), array.create_volume(SPEC), array.delete_volume("v1")):
                with pytest.raises(Unavailable):
                    await call
            (finding,) = await array.check()
            assert not finding.ok
        finally:
            await array.close()

    @both
    async def test_an_array_that_comes_back_is_used_again(self, one_world: World, transport: str) -> None:
        async with one_world.array(transport) as array:
            await array.create_volume(SPEC)
            one_world.simulator.faults.add(Fault(FaultKind.SESSIONS_EXHAUSTED, times=0))
            one_world.simulator.drop_connections()
            for call in (array.get_volume("v1"), array.list_volumes(), array.delete_volume("v1"), array.health("v1")):
                with pytest.raises(Unavailable):
                    await call
            one_world.simulator.faults.clear()
            assert (await array.get_volume("v1")).size == SIZE
            await array.delete_volume("v1")

    @both
    async def test_garbage_is_never_read_as_absence(self, one_world: World, transport: str) -> None:
        async with one_world.array(transport) as array:
            await array.create_volume(SPEC)
            one_world.simulator.faults.add(Fault(FaultKind.CORRUPT_JSON, times=0))
            for call in (
                *(array.get_volume("v1"), array.list_volumes(), array.capacity(""), array.health("v1")),
                *(array.get_snapshot("s1"), array.list_snapshots(), array.list_objects()),
            ):
                with pytest.raises(Unavailable):
                    await call
            one_world.simulator.faults.clear()
            await array.delete_volume("v1")

    @both
    async def test_a_call_ends_with_its_callers_time_while_everything_hangs(
        self, one_world: World, transport: str
    ) -> None:
        async with one_world.array(transport) as array, one_world.array(transport) as fresh:
            await array.create_volume(SPEC)
            one_world.simulator.faults.add(Fault(FaultKind.HANG, times=0, seconds=0.6))
            for each in (array, fresh):
                for call in (each.get_volume, each.delete_volume, each.health):
                    begun = time.monotonic()
                    with pytest.raises((Unavailable, DeadlineExceeded)):
                        await asyncio.create_task(limited(call("v1"), 0.2))
                    assert time.monotonic() - begun < 2.0
            one_world.simulator.faults.clear()
            await fresh.delete_volume("v1")

    @both
    async def test_closing_during_the_first_contact_is_no_cancellation(self, one_world: World, transport: str) -> None:
        async with one_world.array(transport) as array:
            call = asyncio.create_task(array.create_volume(SPEC))
            await asyncio.sleep(0)
            await array.close()
            with pytest.raises(Unavailable):
                await call

    async def test_two_controllers_may_make_and_remove_a_volume_at_once(self, one_world: World) -> None:
        async with one_world.array("ssh") as one, one_world.array("https") as other:
            for _ in range(15):
                made = await asyncio.gather(one.create_volume(SPEC), other.create_volume(SPEC))
                assert {each.size for each in made} == {SIZE}
                assert len(one_world.census().disks) == 1
                await asyncio.gather(one.delete_volume("v1"), other.delete_volume("v1"))
                assert one_world.is_bare(), one_world.census()

    @both
    @pytest.mark.parametrize("seconds", [1e9, -1e9], ids=["forwards", "backwards"])
    async def test_a_jump_of_the_clock_does_not_matter(self, one_world: World, transport: str, seconds: float) -> None:
        moment = [2e9]
        clock = Clock(now=lambda: moment[0])
        async with one_world.array(transport, clock=clock) as array:
            await array.create_volume(SPEC)
            moment[0] += seconds
            assert (await array.expand_volume("v1", 2 * SIZE)).size == 2 * SIZE
            await array.delete_volume("v1")
            await life(array)


class TestByHand:
    @both
    async def test_a_renamed_disk_is_still_the_volume(self, one_world: World, transport: str) -> None:
        async with one_world.array(transport) as array:
            await array.create_volume(SPEC)
            await one_world.edit("v1", slot="by-hand")
            assert (await array.create_volume(SPEC)).size == SIZE
            assert (await array.expand_volume("v1", 2 * SIZE)).size == 2 * SIZE
            assert {each.reason for each in await array.health("v1")} == {"Renamed"}
            assert list(one_world.census().disks) == ["by-hand"]
            await array.delete_volume("v1")
        assert one_world.is_bare(), one_world.census()

    @both
    @pytest.mark.parametrize("edited", ["", "important!", "{}!", "{:.40}", "rds-csi/2/x"])
    async def test_a_volume_whose_comment_was_edited_is_left_alone(
        self, one_world: World, transport: str, edited: str
    ) -> None:
        async with one_world.array(transport) as array:
            await array.create_volume(SPEC)
            one_world.write("v1", b"precious")
            comment = str(one_world.values("v1")["comment"])
            await one_world.edit("v1", comment=edited.format(comment))
            shown = one_world.values("v1")
            for call in (
                *(array.create_volume(SPEC), array.delete_volume("v1"), array.get_volume("v1")),
                *(array.expand_volume("v1", 2 * SIZE), array.modify_volume("v1", {}), array.detach_volume("v1", "")),
            ):
                with pytest.raises((FailedPrecondition, AlreadyExists)):
                    await call
            assert list(await array.list_volumes()) == []
            assert {each.reason for each in await array.health("v1")} <= {"MarkDamaged", "NotOurs"}
            assert one_world.values("v1") == shown
            assert one_world.read("v1", 8) == b"precious"
            await one_world.edit("v1", comment=comment)
            await array.delete_volume("v1")
        assert one_world.is_bare(), one_world.census()

    @both
    async def test_two_disks_with_the_same_mark_are_both_left_alone(self, one_world: World, transport: str) -> None:
        async with one_world.array(transport) as array:
            await array.create_volume(SPEC)
            comment = str(one_world.values("v1")["comment"])
            await one_world.edit("v1", slot="by-hand")
            await one_world.add_foreign("v1", f"{XFS}/copy.img", comment=comment)
            for call in (array.get_volume("v1"), array.delete_volume("v1"), array.create_volume(SPEC)):
                with pytest.raises(FailedPrecondition, match="both"):
                    await call
        assert set(one_world.census().disks) == {"v1", "by-hand"}

    @both
    @pytest.mark.parametrize("marked", [False, True], ids=["not-marked", "of-another-cluster"])
    async def test_a_disk_of_somebody_else_in_the_slot_is_not_touched(
        self, one_world: World, transport: str, marked: bool
    ) -> None:
        comment = "of a virtual machine"
        if marked:
            async with one_world.array(transport, cluster="staging", base="staging") as other:
                await other.create_volume(SPEC)
        else:
            await one_world.add_foreign("v1", f"{XFS}/theirs.img", comment=comment)
        one_world.write("v1", b"theirs")
        shown = one_world.values("v1")
        async with one_world.array(transport) as array:
            for call in (array.create_volume(SPEC), array.delete_volume("v1"), array.get_volume("v1")):
                with pytest.raises((FailedPrecondition, AlreadyExists)):
                    await call
            assert list(await array.list_volumes()) == []
        assert one_world.values("v1") == shown
        assert one_world.read("v1", 6) == b"theirs"
        assert len(one_world.census().files) == 1

    @both
    async def test_a_disk_of_somebody_else_with_the_nqn_is_not_touched(self, one_world: World, transport: str) -> None:
        async with one_world.array(transport) as array:
            await life(array)
            nqn = f"{array.options.nqn_prefix}v1"
            await one_world.add_foreign(
                "theirs",
                f"{XFS}/theirs.img",
                nvme_tcp_export="yes",
                nvme_tcp_server_port="4420",
                nvme_tcp_server_nqn=nqn,
            )
            shown = one_world.values("theirs")
            for call in (array.create_volume(SPEC), array.delete_volume("v1"), array.get_volume("v1")):
                with pytest.raises(FailedPrecondition, match="theirs"):
                    await call
        assert one_world.values("theirs") == shown

    @both
    @pytest.mark.parametrize("directory", [False, True], ids=["file", "directory"])
    async def test_nothing_is_made_over_a_file_of_the_name(
        self, one_world: World, transport: str, directory: bool
    ) -> None:
        storage = one_world.simulator.device.storage
        async with one_world.array(transport) as array:
            await array.create_volume(SPEC)
            path = one_world.census().of(Kind.VOLUME)["v1"].path
            await array.delete_volume("v1")
            if directory:
                storage.make_directory(path)
            else:
                storage.make_file(path, contents="theirs")
            with pytest.raises(FailedPrecondition, match="is there without a disk"):
                await array.create_volume(SPEC)
        entry = storage.find(path)
        assert entry is not None
        assert directory or entry.real_path.read_text() == "theirs"
        assert one_world.census().disks == {}


class Texts(logging.Handler):
    """Every record of every logger, formatted as much as it can be."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += [record.getMessage(), repr(record.__dict__), self.format(record)]


def reprs(value: object, seen: set[int]) -> list[str]:
    """The repr of an object and of everything that it holds, a few levels deep."""
    if id(value) in seen or isinstance(value, str | bytes | int | float | None):
        return []
    seen.add(id(value))
    inner = [getattr(value, each.name) for each in fields(value)] if is_dataclass(value) else []
    inner += list(vars(value).values()) if hasattr(value, "__dict__") else []
    inside = [each for each in inner if type(each).__module__.startswith("rds_csi")]
    return [repr(value), *(text for each in inside for text in reprs(each, seen))]


@both
async def test_secrets_are_in_no_log_no_error_and_no_repr(one_world: World, transport: str) -> None:
    texts = Texts()
    root = logging.getLogger()
    level = root.level
    root.addHandler(texts)
    root.setLevel(logging.DEBUG)
    password = one_world.files.password.read_text().strip()
    key = one_world.files.client_key.read_text()
    secrets = [password, *(line for line in key.splitlines() if len(line) > 20 and "-----" not in line)]
    told: list[str] = []
    libraries = [logging.getLogger(name) for name in ("asyncssh", "httpx", "httpcore")]
    before = [each.level for each in libraries]
    try:
        async with one_world.array(transport) as array:
            for each in libraries:
                each.setLevel(logging.DEBUG)
            for kind in FaultKind:
                one_world.simulator.faults.add(Fault(kind, seconds=0.1))
                try:
                    await life(array)
                except DriverError as error:
                    told += [str(error), repr(error), error.remedy, repr(error.__cause__), repr(error.__context__)]
                one_world.simulator.faults.clear()
            told += reprs(array, set())
            told += [f"{each.message} {each.remedy}" for each in await array.check()]
            await array.delete_volume("v1")
        one_world.files.password.write_text(f"{password}x\n")
        one_world.files.client_key.write_text(key.replace("A", "B"))
        async with one_world.array(transport) as array:
            with pytest.raises(BadCredentials) as caught:
                await array.list_volumes()
            told += [str(caught.value), repr(caught.value)]
    finally:
        root.removeHandler(texts)
        root.setLevel(level)
        for each, was in zip(libraries, before, strict=True):
            each.setLevel(was)
    assert texts.texts
    for secret in secrets:
        assert not any(secret in text for text in (*texts.texts, *told))
