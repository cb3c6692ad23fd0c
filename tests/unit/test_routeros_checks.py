"""The checks of a RouterOS array: what each problem looks like to a person, and what the rest still tells."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rds_csi.arrays.routeros.checks import (
    examine,
    look_at_facts,
    look_at_marks,
    look_at_pool,
    look_at_secrets,
    look_at_switches,
)
from rds_csi.arrays.routeros.errors import (
    BadCredentials,
    HostKeyMismatch,
    NotPermitted,
    Refused,
    TlsMistrust,
    Unsent,
)
from rds_csi.arrays.routeros.least_privilege import needed_policies, setup_lines, surplus_policies
from rds_csi.arrays.routeros.mark import Kind, Mark
from rds_csi.arrays.routeros.names import Names
from rds_csi.arrays.routeros.options import Fencing, RestOptions, RouterosOptions, SnapshotMeans, SshOptions
from rds_csi.arrays.routeros.records import DeviceFacts, Disk
from rds_csi.arrays.routeros.replies import parse_version
from rds_csi.errors import DriverError
from rds_csi.model.sizes import GIB
from rds_csi.model.volumes import Finding
from rds_csi.workers import Workers
from tests.support.routeros_memory import MemoryClient, MemoryDevice

SSH = SshOptions("192.0.2.1", "csi", "/etc/key", "/etc/known_hosts")
REST = RestOptions("192.0.2.1", "csi", password_file="/etc/password", tls_ca="/etc/ca.pem")
POOL = Disk(
    "*1",
    slot="raid10",
    type="raid",
    fs="xfs",
    fs_label="data",
    state="clean",
    mounted=True,
    mount_point="raid10",
    size=100 * GIB,
    free=50 * GIB,
)
FACTS = DeviceFacts(
    version=parse_version("7.24.1 (stable)"),
    board="RDS2216",
    architecture="arm64",
    packages=frozenset({"routeros", "rose-storage"}),
    user="csi",
    policies=frozenset({"ssh", "read", "write"}),
)


def options(
    transport: SshOptions | RestOptions = SSH,
    fencing: Fencing = Fencing.NONE,
    snapshots: SnapshotMeans = SnapshotMeans.NONE,
) -> RouterosOptions:
    return RouterosOptions(
        transport,
        "raid10",
        "rds.csi.rds-csi.io",
        "nqn.2026-01.io.rds-csi:prod:",
        ("192.0.2.1",),
        fencing=fencing,
        snapshots=snapshots,
    )


def by_subject(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


class FailingClient(MemoryClient):
    """A device that the driver does not get to."""

    def __init__(self, error: DriverError) -> None:
        super().__init__(MemoryDevice())
        self._error = error

    async def facts(self) -> DeviceFacts:
        raise self._error


@pytest.fixture
def transport(tmp_path: Path) -> SshOptions:
    key = tmp_path / "key"
    key.write_text("secret")
    key.chmod(0o600)
    return replace(SSH, key_file=str(key))


# All at once


async def test_a_device_that_is_well_has_only_findings_that_are_well(transport: SshOptions) -> None:
    findings = by_subject(await examine(MemoryClient(MemoryDevice()), options(transport), Workers()))
    assert [finding for finding in findings.values() if not finding.ok] == []
    assert "RDS2216" in findings["array"].message
    assert "made with the first volume" in findings["base directory"].message


async def test_the_look_changes_nothing(transport: SshOptions) -> None:
    device = MemoryDevice()
    before = (dict(device.disks), dict(device.files), set(device.directories))
    await examine(MemoryClient(device), options(transport), Workers())
    assert (device.disks, device.files, device.directories) == before


@pytest.mark.parametrize(
    ("error", "transport_options", "bad", "good"),
    [
        (Unsent("refused the connection"), SSH, "array", set()),
        (HostKeyMismatch("another key", remedy="Compare it."), SSH, "host key", {"array"}),
        (TlsMistrust("expired", remedy="Renew it."), REST, "certificate", {"array"}),
        (BadCredentials("refused the key", remedy="Import it."), SSH, "login", set()),
        (NotPermitted("not permitted", remedy="Grant it."), REST, "policies", {"array", "certificate"}),
        (Refused("no", text="no"), REST, "login", {"array", "certificate"}),
    ],
)
async def test_what_stops_the_way_to_the_device_is_told_apart(
    error: DriverError, transport_options: SshOptions | RestOptions, bad: str, good: set[str]
) -> None:
    findings = by_subject(await examine(FailingClient(error), options(transport_options), Workers()))
    assert not findings[bad].ok
    assert findings[bad].remedy
    assert {subject for subject, finding in findings.items() if finding.ok} == good
    assert "pool" not in findings


async def test_a_device_that_goes_away_meanwhile_is_a_finding_of_the_pool(transport: SshOptions) -> None:
    class LeavingClient(MemoryClient):
        async def list_disks(self) -> tuple[Disk, ...]:
            raise Unsent("the device is away")

    findings = by_subject(await examine(LeavingClient(MemoryDevice()), options(transport), Workers()))
    assert findings["array"].ok
    assert not findings["pool"].ok
    assert "away" in findings["pool"].message


# Secrets


async def test_a_secret_that_everybody_may_read_is_a_warning_with_the_command(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    key.chmod(0o644)
    (finding,) = await look_at_secrets(replace(SSH, key_file=str(key)), Workers())
    assert finding.ok
    assert finding.remedy == f"chmod o-rwx {key}"


async def test_a_secret_that_is_not_there_is_missing(tmp_path: Path) -> None:
    (finding,) = await look_at_secrets(replace(REST, password_file=str(tmp_path / "none")), Workers())
    assert not finding.ok


# Version, package, policies


@pytest.mark.parametrize(
    ("version", "snapshots", "needed"),
    [
        ("7.20.8", SnapshotMeans.NONE, "7.21"),
        ("7.20.8", SnapshotMeans.BTRFS_SUBVOLUME, "7.21"),
        ("7.22", SnapshotMeans.FILE_COPY, "7.23"),
        ("7.21", SnapshotMeans.NONE, ""),
        ("7.21beta3", SnapshotMeans.BTRFS_SUBVOLUME, ""),
        ("7.23", SnapshotMeans.FILE_COPY, ""),
    ],
)
def test_an_old_version_is_told_with_the_one_that_is_needed(
    version: str, snapshots: SnapshotMeans, needed: str
) -> None:
    finding = look_at_facts(options(snapshots=snapshots), replace(FACTS, version=parse_version(version)))[0]
    assert finding.ok == (not needed)
    if needed:
        assert f"Install RouterOS {needed}." in finding.remedy


def test_a_missing_package_is_told_with_the_lines_that_install_it() -> None:
    finding = look_at_facts(options(), replace(FACTS, packages=frozenset({"routeros"})))[1]
    assert not finding.ok
    assert "/system/package/enable rose-storage" in finding.remedy


def test_packages_that_cannot_be_read_are_a_warning() -> None:
    finding = look_at_facts(options(), replace(FACTS, packages=frozenset()))[1]
    assert finding.ok
    assert finding.remedy


def test_a_policy_that_lacks_is_named_with_the_line_that_grants_it() -> None:
    finding = look_at_facts(options(REST), FACTS)[2]
    assert not finding.ok
    assert "test, api, rest-api" in finding.message
    assert finding.remedy.endswith("policy=test,api,rest-api")


def test_too_many_policies_are_a_warning() -> None:
    finding = look_at_facts(options(), replace(FACTS, policies=FACTS.policies | {"policy", "sensitive", "test"}))[2]
    assert finding.ok
    assert "policy, sensitive" in finding.message
    assert "policy=ssh,read,write" in finding.remedy


def test_policies_that_cannot_be_read_are_a_warning() -> None:
    finding = look_at_facts(options(), replace(FACTS, policies=frozenset()))[2]
    assert finding.ok
    assert "ssh,read,write" in finding.remedy


# The pool


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        ({"slot": "other"}, "pool", "mounted are other"),
        ({"mounted": False}, "pool", "not mounted"),
        ({"disabled": True}, "pool", "disabled"),
        ({"state": "degraded"}, "pool state", "degraded"),
        ({"state": "clean, degraded"}, "pool state", "degraded"),
    ],
)
def test_a_pool_that_cannot_be_used_is_missing(change: dict[str, object], subject: str, words: str) -> None:
    disk = Disk(**{**{name: getattr(POOL, name) for name in Disk.__slots__}, **change})
    finding = by_subject(look_at_pool(options(), [disk]))[subject]
    assert not finding.ok
    assert words in finding.message
    assert finding.remedy


@pytest.mark.parametrize(
    ("pool", "subject"),
    [
        (replace(POOL, state="clean, resync = 1.8% (17498368/937692160)"), "pool state"),
        (replace(POOL, free=GIB), "pool space"),
        (replace(POOL, free=None), "pool space"),
    ],
)
def test_a_pool_that_wants_attention_is_a_warning(pool: Disk, subject: str) -> None:
    finding = by_subject(look_at_pool(options(), [pool]))[subject]
    assert finding.ok
    assert finding.remedy


@pytest.mark.parametrize(
    ("pool", "well"),
    [
        (POOL, False),
        (replace(POOL, fs="btrfs", fs_label=""), False),
        (replace(POOL, fs="btrfs"), True),
    ],
)
def test_subvolumes_want_a_labelled_btrfs(pool: Disk, well: bool) -> None:
    findings = look_at_pool(options(snapshots=SnapshotMeans.BTRFS_SUBVOLUME), [pool])
    assert by_subject(findings)["btrfs"].ok is well


async def test_a_file_in_the_place_of_the_base_directory_is_missing(transport: SshOptions) -> None:
    device = MemoryDevice()
    device.put(slot="x", type="file", size=GIB, file_path="raid10/rds-csi")
    del device.disks[device.by_slot("x").id]
    findings = by_subject(await examine(MemoryClient(device), options(transport), Workers()))
    assert not findings["base directory"].ok


# Switches


@pytest.mark.parametrize("fencing", [Fencing.ALLOW_HOST, Fencing.EXPORT])
@pytest.mark.parametrize("snapshots", [SnapshotMeans.BTRFS_SUBVOLUME, SnapshotMeans.FILE_COPY])
def test_switches_that_nobody_has_verified_are_warnings(fencing: Fencing, snapshots: SnapshotMeans) -> None:
    findings = list(look_at_switches(options(fencing=fencing, snapshots=snapshots)))
    assert [finding.ok and "not verified" in finding.message for finding in findings] == [True, True]
    assert all("--probe" in finding.remedy for finding in findings)


# The user


@pytest.mark.parametrize("transport_options", [SSH, REST], ids=["ssh", "rest"])
def test_the_setup_lines_grant_what_is_needed_and_nothing_else(transport_options: SshOptions | RestOptions) -> None:
    group, user, *_ = setup_lines(transport_options)
    assert group == f"/user/group/add name=rds-csi policy={','.join(needed_policies(transport_options))}"
    assert "group=rds-csi" in user
    assert surplus_policies(transport_options, frozenset(needed_policies(transport_options))) == ()


def test_the_setup_lines_import_the_key_over_ssh_and_want_a_certificate_over_rest() -> None:
    assert "/user/ssh-keys/import user=csi public-key-file=rds-csi.pub" in setup_lines(SSH)
    assert "/ip/service/set www-ssl certificate=CERTIFICATE" in setup_lines(REST)
    assert "name=rds-csi " in setup_lines(replace(REST, user="", users_file="/etc/users"))[1]


def test_marks_that_were_edited_or_removed_are_counted_and_named() -> None:
    options = RouterosOptions(SSH, "raid10", "d", "nqn.2026-01.io.x:", ("192.0.2.1",), cluster="prod")
    names = Names("d", "prod", "nqn.2026-01.io.x:", "raid10", "rds-csi")
    mark = Mark(Kind.VOLUME, "d", "prod", "a", "a").encode()
    whole = Disk("*2", slot="a", type="file", file_path=names.volume_path("a"), comment=mark)
    edited = Disk("*3", slot="b", type="file", file_path=names.volume_path("b"), comment=mark[:-1])
    lost = Disk("*4", slot="c", type="file", file_path=names.volume_path("c"))
    foreign = Disk("*5", slot="db", type="file", file_path="raid10/db.img", comment="the database")
    well = look_at_marks(options, POOL, (POOL, whole, foreign))
    assert (well.ok, well.message) == (True, "1 disks are of driver d and cluster prod")
    finding = look_at_marks(options, POOL, (POOL, whole, edited, lost, foreign))
    assert not finding.ok
    assert finding.message.endswith("2 marks were edited or removed: b, c")
    assert "rds-csi orphans" in finding.remedy


def test_volumes_of_the_go_driver_are_counted_under_its_name() -> None:
    slot = "pvc-0f0e0d0c-0b0a-4908-8706-050403020100"
    nqn = f"nqn.2000-02.com.mikrotik:{slot}"
    disk = Disk("*2", slot=slot, type="file", file_path=f"raid10/{slot}.img", nqn=nqn, exported=True)
    for driver, count in (("rds.csi.srvlab.io", 1), ("rds.csi.rds-csi.io", 0)):
        options = RouterosOptions(SSH, "raid10", driver, "nqn.2026-01.io.x:", ("192.0.2.1",))
        assert look_at_marks(options, POOL, (POOL, disk)).message.startswith(f"{count} disks")
