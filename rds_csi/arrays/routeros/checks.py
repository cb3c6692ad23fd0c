"""The checks of a RouterOS array: each thing that it needs looked at apart, with the remedy for what is missing.

A finding that is well and has a remedy is a warning: volumes work, but not all that one may want of them.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from rds_csi.arrays.routeros import secrets
from rds_csi.arrays.routeros.client import Client
from rds_csi.arrays.routeros.commands import Anchors, Command, Deed, Expect
from rds_csi.arrays.routeros.errors import BadCredentials, HostKeyMismatch, NotPermitted, Refused, TlsMistrust
from rds_csi.arrays.routeros.least_privilege import GROUP, needed_policies, surplus_policies
from rds_csi.arrays.routeros.names import Names
from rds_csi.arrays.routeros.objects import ObjectKind, classify
from rds_csi.arrays.routeros.options import Fencing, RestOptions, RouterosOptions, SnapshotMeans, SshOptions
from rds_csi.arrays.routeros.ownership import Ownership
from rds_csi.arrays.routeros.pool import CLEAN, OLDEST, OLDEST_COPY, PACKAGE
from rds_csi.arrays.routeros.records import DeviceFacts, Disk
from rds_csi.errors import DriverError
from rds_csi.model.sizes import GIB
from rds_csi.model.volumes import Finding
from rds_csi.workers import Workers

# The first release with what a kind of snapshots is made with: /disk/btrfs/subvolume and /file/copy.
OLDEST_FOR = {SnapshotMeans.BTRFS_SUBVOLUME: (7, 18), SnapshotMeans.FILE_COPY: OLDEST_COPY}
# A pool with less free than this share of it is about to be full.
_LOW = 20

_FILE_SECONDS = 10.0
_PROBE = "Try it on this device first: rds-csi doctor --probe (see docs/routeros.md, test plan)."

_REACHABLE, _LOGIN, _VERSION, _PACKAGE = "array", "login", "RouterOS", "ROSE storage"
_POLICIES, _POOL, _DIRECTORY, _MARKS = "policies", "pool", "base directory", "marks"
# Slots that a finding names.
_SHOWN = 10


async def examine(client: Client, options: RouterosOptions, workers: Workers) -> Sequence[Finding]:
    """Every check, from the secrets on this machine to the switches. Never raises a DriverError."""
    findings = [*await look_at_secrets(options.transport, workers)]
    try:
        facts = await client.facts()
    except DriverError as error:
        return [*findings, *_no_contact(options, error)]
    findings += _contact(options, facts)
    findings += look_at_facts(options, facts)
    try:
        findings += await _look_at_pool(client, options)
    except DriverError as error:
        findings.append(_failed(_POOL, error))
    return [*findings, *look_at_switches(options)]


# The way to the device


async def look_at_secrets(transport: SshOptions | RestOptions, workers: Workers) -> Sequence[Finding]:
    """The files with keys and passwords: there, and not for everybody's eyes."""
    if isinstance(transport, SshOptions):
        files = [(transport.key_file, "the key file")]
    else:
        files = [(transport.password_file, "the password file"), (transport.users_file, "the users file")]
    findings = []
    for path, what in files:
        if path:
            look = partial(secrets.examine, path, what)
            try:
                findings.append(await workers.run(look, timeout=_FILE_SECONDS, key=path))
            except DriverError as error:
                findings.append(_failed(what, error))
    return findings


def _identity(options: RouterosOptions) -> str:
    return "host key" if isinstance(options.transport, SshOptions) else "certificate"


def _label(options: RouterosOptions) -> str:
    return f"{options.transport.host}:{options.transport.port}"


def _no_contact(options: RouterosOptions, error: DriverError) -> Sequence[Finding]:
    """How far the way to the device is well, by what stopped it."""
    reached = Finding(_REACHABLE, True, f"{_label(options)} answers")
    trusted = Finding(_identity(options), True, f"the {_identity(options)} is the one that is expected")
    if isinstance(error, HostKeyMismatch | TlsMistrust):
        return (reached, _failed(_identity(options), error))
    if isinstance(error, BadCredentials):
        # Also a secret that cannot be read: then the device was not asked at all, which the secrets' finding says.
        return (_failed(_LOGIN, error),)
    if isinstance(error, NotPermitted):
        return (reached, trusted, _failed(_POLICIES, error))
    if isinstance(error, Refused):
        return (reached, trusted, _failed(_LOGIN, error))
    remedy = error.remedy or f"Is the device up, and does {_label(options)} let this machine in?"
    return (Finding(_REACHABLE, False, error.message, remedy),)


def _contact(options: RouterosOptions, facts: DeviceFacts) -> Sequence[Finding]:
    device = " ".join(part for part in (facts.board, facts.architecture) if part)
    user = f" as {facts.user}" if facts.user else ""
    return (
        Finding(_REACHABLE, True, f"{_label(options)} answers{f': {device}' if device else ''}"),
        Finding(_identity(options), True, f"the {_identity(options)} is the one that is expected"),
        Finding(_LOGIN, True, f"logged in{user}"),
    )


def _failed(subject: str, error: DriverError) -> Finding:
    return Finding(subject, False, error.message, error.remedy or "Look at the driver's log.")


# What the device is


def look_at_facts(options: RouterosOptions, facts: DeviceFacts) -> Sequence[Finding]:
    """Version, package and policies."""
    return (_version(options, facts), _package(facts), _policies(options, facts))


def _version(options: RouterosOptions, facts: DeviceFacts) -> Finding:
    needed = max(OLDEST, OLDEST_FOR.get(options.snapshots, OLDEST))
    if facts.version.is_at_least(*needed):
        return Finding(_VERSION, True, str(facts.version))
    if not facts.version.is_at_least(*OLDEST):
        why = "an exported disk has no NQN of its own before"
    else:
        why = f"snapshots={options.snapshots.value} needs it"
    wanted = ".".join(map(str, needed))
    return Finding(_VERSION, False, f"{facts.version} is older than {wanted}: {why}", f"Install RouterOS {wanted}.")


def _package(facts: DeviceFacts) -> Finding:
    if PACKAGE in facts.packages:
        return Finding(_PACKAGE, True, f"the package {PACKAGE} is enabled")
    if not facts.packages:
        return Finding(
            _PACKAGE, True, "the packages cannot be read", f"See that {PACKAGE} is in /system/package/print."
        )
    return Finding(
        _PACKAGE,
        False,
        f"the package {PACKAGE} is not there, or not enabled",
        f"/system/package/update/check-for-updates; /system/package/enable {PACKAGE}; /system/package/apply-changes",
    )


def _policies(options: RouterosOptions, facts: DeviceFacts) -> Finding:
    needed = needed_policies(options.transport)
    if not facts.policies:
        return Finding(
            _POLICIES,
            True,
            "the policies of the user's group cannot be read",
            f"See on the device that they are {','.join(needed)}: /user/group/print",
        )
    lacking = [policy for policy in needed if policy not in facts.policies]
    if lacking:
        group = f"[/user/get [/user/find where name={facts.user}] group]"
        line = f"/user/group/set {group} policy={','.join(lacking)}"
        return Finding(_POLICIES, False, f"the user {facts.user} lacks {', '.join(lacking)}", line)
    surplus = surplus_policies(options.transport, facts.policies)
    if surplus:
        return Finding(
            _POLICIES,
            True,
            f"the user {facts.user} may do more than the driver needs: {', '.join(surplus)}",
            f"/user/group/add name={GROUP} policy={','.join(needed)}; /user/set {facts.user} group={GROUP}",
        )
    return Finding(_POLICIES, True, ", ".join(sorted(facts.policies)))


# The pool


async def _look_at_pool(client: Client, options: RouterosOptions) -> Sequence[Finding]:
    disks = await client.list_disks()
    pool = next((disk for disk in disks if disk.slot == options.pool), None)
    findings = [*look_at_pool(options, disks)]
    if pool is not None and pool.mounted:
        findings.append(await _look_at_directory(client, f"{pool.mount_point or pool.slot}/{options.base}"))
        findings.append(look_at_marks(options, pool, disks))
    return findings


def look_at_marks(options: RouterosOptions, pool: Disk, disks: Sequence[Disk]) -> Finding:
    """How many disks are ours by their marks, and which marks were edited or removed."""
    directory = pool.mount_point.strip("/") or pool.slot
    names = Names(options.driver_name, options.cluster, options.nqn_prefix, directory, options.base)
    ownership = Ownership(options.driver_name, options.cluster)
    found = classify(ownership, names, before=(), files=(), subvolumes=(), after=disks)
    damaged = [item.slot for item in found if item.kind is ObjectKind.DAMAGED]
    whole = len(found) - len(damaged)
    whose = f"{whole} disks are of driver {options.driver_name} and cluster {options.cluster}"
    if not damaged:
        return Finding(_MARKS, True, whose)
    shown = ", ".join(damaged[:_SHOWN]) + (", …" if len(damaged) > _SHOWN else "")
    remedy = "Nothing is done to them until somebody has mended their comments: rds-csi orphans tells what is wrong."
    return Finding(_MARKS, False, f"{whose}; {len(damaged)} marks were edited or removed: {shown}", remedy)


def look_at_pool(options: RouterosOptions, disks: Sequence[Disk]) -> Sequence[Finding]:
    """The pool: there, mounted, clean, with room, and fit for the snapshots that are asked for."""
    pool = next((disk for disk in disks if disk.slot == options.pool), None)
    if pool is None:
        return (_no_pool(options.pool, disks),)
    if pool.disabled or not pool.mounted:
        how = "disabled" if pool.disabled else "not mounted"
        remedy = f"/disk/print detail where slot={pool.slot}; /disk/set {pool.slot} disabled=no mount-filesystem=yes"
        return (Finding(_POOL, False, f"the pool {pool.slot} is {how}", remedy),)
    return (
        Finding(_POOL, True, f"{pool.slot} is mounted at {pool.mount_point or pool.slot}, {pool.fs or 'unknown'}"),
        *_state(pool),
        *_room(pool),
        *_label_for_snapshots(options, pool),
    )


def _no_pool(slot: str, disks: Sequence[Disk]) -> Finding:
    pools = sorted(disk.slot for disk in disks if disk.mounted and disk.slot)
    known = f"mounted are {', '.join(pools)}" if pools else "nothing is mounted"
    remedy = "Correct the key pool in the array's URL, or make and format the pool."
    return Finding(_POOL, False, f"there is no disk in the slot {slot}; {known}", remedy)


def _state(pool: Disk) -> Iterator[Finding]:
    """RouterOS tells ``clean``, or ``clean, resync = 1.8% …`` while a RAID is rebuilt; nothing where there is none.

    ``clean, degraded`` has lost a disk, whatever its first word says.
    """
    if not pool.state:
        return
    if pool.state == CLEAN:
        yield Finding("pool state", True, CLEAN)
    elif pool.state.startswith(CLEAN) and "degraded" not in pool.state:
        yield Finding("pool state", True, f"{pool.slot}: {pool.state}", "Wait until the rebuild has ended.")
    else:
        remedy = "Replace what failed before it is a second one: /disk/print where raid-master=" + pool.slot
        yield Finding("pool state", False, f"{pool.slot} is {pool.state}", remedy)


def _room(pool: Disk) -> Iterator[Finding]:
    if pool.free is None:
        yield Finding("pool space", True, "not told", "The device does not tell what is free: /disk/print detail")
        return
    told = f"{pool.free / GIB:.1f} of {pool.size / GIB:.1f} GiB are free in {pool.slot}"
    low = pool.free * _LOW < pool.size
    yield Finding("pool space", True, told, "Delete what is not needed, or add disks." if low else "")


def _label_for_snapshots(options: RouterosOptions, pool: Disk) -> Iterator[Finding]:
    if options.snapshots is not SnapshotMeans.BTRFS_SUBVOLUME:
        return
    if pool.fs != "btrfs":
        remedy = "Name a btrfs pool, or leave snapshots=btrfs-subvolume out of the array's URL."
        yield Finding("btrfs", False, f"the pool {pool.slot} is {pool.fs or 'not formatted'}, not btrfs", remedy)
    elif not pool.fs_label:
        remedy = "Subvolumes are addressed by it: give the filesystem a label (/disk/btrfs/filesystem)."
        yield Finding("btrfs", False, f"the filesystem of {pool.slot} has no label", remedy)
    else:
        yield Finding("btrfs", True, f"the label is {pool.fs_label}")


async def _look_at_directory(client: Client, directory: str) -> Finding:
    """Whether it is there; a command without steps changes nothing."""
    anchors = Anchors(paths=(directory,))
    outcome = await client.execute(Command(anchors, (Deed(Expect(disks=0, no_file=True)),)))
    if outcome.done == 0:
        return Finding(_DIRECTORY, True, f"{directory} is made with the first volume")
    if any(file.name == directory and file.type not in ("", "directory") for file in outcome.files):
        remedy = "Name another directory with the key base."
        return Finding(_DIRECTORY, False, f"{directory} is a file, not a directory", remedy)
    return Finding(_DIRECTORY, True, f"{directory} is there")


# What is switched on


def look_at_switches(options: RouterosOptions) -> Iterator[Finding]:
    """What rests on a part of RouterOS that nobody has shown on a device."""
    if options.fencing is not Fencing.NONE:
        yield Finding("fencing", True, f"fencing={options.fencing.value} is not verified on hardware", _PROBE)
    else:
        yield Finding("fencing", True, "none: whoever reaches the portal can connect every volume; RWO is the driver's")
    if options.snapshots is not SnapshotMeans.NONE:
        yield Finding("snapshots", True, f"snapshots={options.snapshots.value} is not verified on hardware", _PROBE)
    else:
        yield Finding("snapshots", True, "none")
