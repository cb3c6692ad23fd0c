"""``rds-csi doctor``: each look on a made-up machine, and that a finding names its remedy."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rds_csi.commands.doctor import examine
from rds_csi.commands.doctor.findings import Result, State, missing, ok, print_results, result_of, warning, worst_last
from rds_csi.commands.doctor.identity import look_at_identity
from rds_csi.commands.doctor.kernel import look_at_kernel, look_at_loop_control
from rds_csi.commands.doctor.portals import (
    Portal,
    known_portals,
    look_at_portals,
    look_at_sessions,
    parse_portal,
    sessions_of,
)
from rds_csi.commands.doctor.state import look_at_state_dir
from rds_csi.commands.doctor.tools import look_at_tools
from rds_csi.errors import ConfigurationError, Unavailable
from rds_csi.filesystem.protocol import Mount, MountTable
from rds_csi.filesystem.tools import check_tools
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import DeviceNumber
from rds_csi.model.host import HostPaths
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import FileTarget, NvmeTarget, Target
from rds_csi.model.volumes import Finding
from rds_csi.nvme.identity import load_identity
from rds_csi.nvme.portal_probe import PortalAnswer, PortalState
from rds_csi.nvme.sessions import Session
from rds_csi.nvme.sysfs import NvmeSysfs
from rds_csi.settings import load_settings
from tests.support.nvme_tree import HOSTID, HOSTNQN, NvmeTree
from tests.support.runner import ScriptedRunner

PREFIX = "nqn.2026-01.io.example:"
RELEASE = "6.1.0-13-amd64"
NIL = "00000000-0000-0000-0000-000000000000"
Write = Callable[[str, str], None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine without NVMe."""
    for directory in ("sys/module", "proc/sys/kernel", "dev", "etc/nvme"):
        (tmp_path / "host" / directory).mkdir(parents=True)
    (tmp_path / "host/proc/sys/kernel/osrelease").write_text(f"{RELEASE}\n")
    return tmp_path / "host"


@pytest.fixture
def write(root: Path) -> Write:
    def function(path: str, text: str) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)

    return function


@pytest.fixture
def host(root: Path) -> HostPaths:
    return HostPaths(str(root))


def everything_below(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(directory.rglob("*"))}


def states_of(results: object) -> dict[str, State]:
    assert isinstance(results, list | tuple)
    return {result.subject: result.state for result in results}


# The kernel


def test_a_loaded_module_is_well(root: Path, host: HostPaths, write: Write) -> None:
    for module in ("nvme_tcp", "nvme_fabrics"):
        (root / "sys/module" / module).mkdir()
    write("dev/nvme-fabrics", "")
    write("sys/module/nvme_core/parameters/multipath", "N\n")
    results = look_at_kernel(host, needs_nvme=True)
    assert set(states_of(results).values()) == {State.OK}
    assert results[0].message == f"Linux {RELEASE}"
    assert results[-1].message.startswith("off")


def test_native_multipath_is_told_as_the_connectors_take_it(root: Path, host: HostPaths, write: Write) -> None:
    def told() -> str:
        return {result.subject: result.message for result in look_at_kernel(host, needs_nvme=True)}["native multipath"]

    assert "not known before" in told()
    (root / "sys/module/nvme_core").mkdir()
    assert told().startswith("off")
    assert "CONFIG_NVME_MULTIPATH" in told()
    write("sys/module/nvme_core/parameters/multipath", "Y\n")
    assert told().startswith("on")


@pytest.mark.parametrize("parent", ["lib", "usr/lib"])
@pytest.mark.parametrize("suffix", ["ko", "ko.xz", "ko.zst"])
def test_a_module_that_could_be_loaded_is_a_warning_that_says_how(
    host: HostPaths, write: Write, parent: str, suffix: str
) -> None:
    directory = "kernel/drivers/nvme/host"
    write(
        f"{parent}/modules/{RELEASE}/modules.dep",
        f"{directory}/nvme-fabrics.{suffix}: {directory}/nvme-core.{suffix}\n{directory}/nvme-tcp.{suffix}: x\n",
    )
    results = {result.subject: result for result in look_at_kernel(host, needs_nvme=True)}
    assert results["nvme_tcp"].state is results["nvme_fabrics"].state is State.WARNING
    assert f"nvme-tcp.{suffix}" in results["nvme_tcp"].message
    assert "modprobe nvme-tcp" in results["nvme_tcp"].remedy
    # It is not there yet, and that is no finding of its own.
    assert "nvme-fabrics" not in results


def test_a_module_inside_the_kernel_is_well(host: HostPaths, write: Write) -> None:
    write(f"lib/modules/{RELEASE}/modules.builtin", "kernel/drivers/nvme/host/nvme-tcp.ko\n")
    assert states_of(look_at_kernel(host, needs_nvme=True))["nvme_tcp"] is State.OK


def test_modules_of_another_kernel_do_not_count(host: HostPaths, write: Write) -> None:
    write("lib/modules/5.10.0-1-amd64/modules.dep", "kernel/nvme-tcp.ko:\nkernel/nvme-fabrics.ko:\n")
    results = {result.subject: result for result in look_at_kernel(host, needs_nvme=True)}
    assert results["nvme_tcp"].state is State.MISSING
    assert RELEASE in results["nvme_tcp"].message


def test_a_kernel_without_the_module_is_told_with_the_package_that_has_it(host: HostPaths, write: Write) -> None:
    write(f"lib/modules/{RELEASE}/modules.dep", "kernel/drivers/nvme/host/nvme-tcp-other.ko:\n")
    results = {result.subject: result for result in look_at_kernel(host, needs_nvme=True)}
    assert results["nvme_tcp"].state is State.MISSING
    assert f"linux-modules-extra-{RELEASE}" in results["nvme_tcp"].remedy


def test_a_container_without_the_hosts_dev_is_told(root: Path, host: HostPaths) -> None:
    (root / "sys/module/nvme_fabrics").mkdir()
    results = {result.subject: result for result in look_at_kernel(host, needs_nvme=True)}
    assert results["nvme-fabrics"].state is State.MISSING
    assert "/dev" in results["nvme-fabrics"].remedy


def test_without_an_nvme_connector_no_module_is_asked_for(host: HostPaths) -> None:
    assert [result.subject for result in look_at_kernel(host, needs_nvme=False)] == ["kernel"]


def test_a_host_root_without_proc_is_told(tmp_path: Path) -> None:
    (result,) = look_at_kernel(HostPaths(str(tmp_path / "none")), needs_nvme=True)
    assert (result.state, "--host-root" in result.remedy) == (State.MISSING, True)


def test_loop_devices_are_told_by_their_control_node(host: HostPaths, write: Write) -> None:
    assert look_at_loop_control(host).state is State.MISSING
    write("dev/loop-control", "")
    assert look_at_loop_control(host).state is State.OK


# The host identity


def test_a_good_pair_says_where_it_is_from_and_what_to_compare(host: HostPaths, write: Write, tmp_path: Path) -> None:
    write("etc/nvme/hostnqn", f"{HOSTNQN}\n")
    write("etc/nvme/hostid", f"{HOSTID.upper()}\n")
    (result,) = look_at_identity(host, str(tmp_path / "state"))
    assert result.state is State.OK
    assert HOSTNQN in result.message
    assert host.etc_nvme in result.message
    assert "every node" in result.remedy


@pytest.mark.parametrize(
    ("hostnqn", "hostid", "reason"),
    [
        ("", HOSTID, "not an NVMe qualified name"),
        ("nonsense", HOSTID, "not an NVMe qualified name"),
        (HOSTNQN, "nonsense", "not a UUID: 'nonsense'"),
        (HOSTNQN, NIL, "all zeros"),
        (None, HOSTID, "there is no hostnqn"),
        (HOSTNQN, None, "there is no hostid"),
    ],
)
def test_a_broken_pair_is_a_warning_and_what_the_driver_takes_instead_is_told(
    host: HostPaths, write: Write, tmp_path: Path, hostnqn: str | None, hostid: str | None, reason: str
) -> None:
    write("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    for name, value in (("hostnqn", hostnqn), ("hostid", hostid)):
        if value is not None:
            write(f"etc/nvme/{name}", value)
    before = everything_below(tmp_path)
    broken, instead = look_at_identity(host, str(tmp_path / "state"))
    assert (broken.state, instead.state) == (State.WARNING, State.OK)
    assert reason in broken.message
    assert broken.remedy
    assert "machine id" in instead.message
    assert everything_below(tmp_path) == before
    # The driver thinks so too.
    assert load_identity(host, str(tmp_path / "state")).source != host.etc_nvme


@pytest.mark.parametrize(
    "shared", [NIL, "03000200-0400-0500-0006-000700080009", "ffffffff-ffff-ffff-ffff-ffffffffffff"]
)
def test_an_identity_that_many_machines_have_is_a_warning(
    host: HostPaths, write: Write, tmp_path: Path, shared: str
) -> None:
    write("etc/nvme/hostnqn", f"nqn.2014-08.org.nvmexpress:uuid:{shared.upper()}")
    write("etc/nvme/hostid", HOSTID)
    (result,) = look_at_identity(host, str(tmp_path / "state"))
    assert result.state is State.WARNING
    assert shared in result.message
    assert "gen-hostnqn" in result.remedy


def test_a_kept_pair_is_told_and_a_damaged_one_too(host: HostPaths, write: Write, tmp_path: Path) -> None:
    write("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    state = tmp_path / "state"
    kept = load_identity(host, str(state))
    (result,) = look_at_identity(host, str(state))
    assert (result.state, kept.hostnqn in result.message) == (State.OK, True)
    for damage in ("", "[]", "null", '{"hostnqn": "x"}', "{"):
        (state / "host-identity.json").write_text(damage)
        damaged, _ = look_at_identity(host, str(state))
        assert damaged.state is State.WARNING
        assert "damaged" in damaged.message


def test_without_a_machine_id_the_coming_identity_is_a_warning(host: HostPaths, tmp_path: Path) -> None:
    (result,) = look_at_identity(host, str(tmp_path / "state"))
    assert result.state is State.WARNING
    assert "systemd-machine-id-setup" in result.remedy


# The state directory


def mounted(path: str, fs_type: str) -> Mount:
    return Mount(1, DeviceNumber(0, 1), "/", path, ("rw",), fs_type, "x", ())


def test_a_state_directory_on_disk_is_well_and_one_to_be_made_too(tmp_path: Path) -> None:
    table = MountTable((mounted("/", "ext4"),))
    assert look_at_state_dir(str(tmp_path), table) == ok("state directory", f"{tmp_path}, on ext4")
    result = look_at_state_dir(f"{tmp_path}/a/b", table)
    assert result.state is State.OK
    assert f"will be made in {tmp_path}" in result.message
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("fs_type", ["tmpfs", "overlay"])
def test_a_state_directory_that_does_not_survive_is_a_warning(tmp_path: Path, fs_type: str) -> None:
    nearest = MountTable((mounted("/", "ext4"), mounted(str(tmp_path), "xfs"), mounted(str(tmp_path), fs_type)))
    result = look_at_state_dir(f"{tmp_path}/state/", nearest)
    assert result.state is State.WARNING
    assert f"{fs_type} at {tmp_path}" in result.message
    assert "--state-dir" in result.remedy


def test_a_state_directory_that_cannot_be_written_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (f"{tmp_path}/file", f"{tmp_path}/file/x"):
        result = look_at_state_dir(path, MountTable(()))
        assert (result.state, bool(result.remedy)) == (State.MISSING, True)


# Tools

VERSIONS = {
    ("mount", "--version"): "mount from util-linux 2.38.1 (libmount 2.38.1: selinux)\n",
    ("nvme", "version"): "nvme version 2.3 (git 2.3)\nlibnvme version 1.3\n",
    ("dd", "--version"): "dd (coreutils) 9.1\nCopyright\n",
}


def tools_runner() -> ScriptedRunner:
    runner = ScriptedRunner()
    for argv, text in VERSIONS.items():
        runner.on(*argv, stdout=text)
    return runner


def installed(*names: str) -> Callable[[str], str | None]:
    return lambda name: f"/usr/bin/{name}" if name in names else None


async def tools(connector: str, *names: str, runner: ScriptedRunner | None = None) -> dict[str, Result]:
    find = installed(*names)
    found = await look_at_tools(runner or tools_runner(), check_tools(find), connector, find)
    return {result.subject: result for result in found}


async def test_tools_are_told_with_their_versions_and_missing_ones_with_their_package() -> None:
    results = await tools("nvme-cli", "mount", "nvme")
    assert results["mount"] == ok("mount", "/usr/bin/mount, mount from util-linux 2.38.1")
    assert results["nvme"] == ok("nvme", "/usr/bin/nvme, nvme version 2.3")
    assert results["mkfs.ext4"] == missing("mkfs.ext4", "not installed", "apt-get install e2fsprogs")
    assert results["blkid"].remedy == "apt-get install util-linux"
    assert (results["modprobe"].state, results["modprobe"].remedy) == (State.WARNING, "apt-get install kmod")


async def test_a_filesystem_that_nobody_may_want_is_a_warning() -> None:
    results = await tools("nvme-cli")
    assert (results["mkfs.btrfs"].state, results["mkfs.btrfs"].remedy) == (
        State.WARNING,
        "apt-get install btrfs-progs",
    )
    assert results["mkfs.xfs"].state is State.WARNING


async def test_each_connector_asks_for_its_own_program() -> None:
    assert (await tools("nvme-cli"))["nvme"] == missing("nvme", "not installed", "apt-get install nvme-cli")
    assert (await tools("fabrics"))["dd"] == missing("dd", "not installed", "apt-get install coreutils")
    assert {"nvme", "dd", "modprobe"}.isdisjoint(await tools("loop"))
    assert (await tools("fabrics", "dd"))["dd"].state is State.OK


async def test_busyboxs_dd_and_an_old_nvme_cli_are_not_enough() -> None:
    runner = ScriptedRunner()
    runner.on("dd", "--version", stdout="BusyBox v1.35.0 multi-call binary.\n")
    runner.on("nvme", "version", stdout="nvme version 1.12\n")
    dd = (await tools("fabrics", "dd", runner=runner))["dd"]
    assert (dd.state, dd.remedy) == (State.MISSING, "apt-get install coreutils")
    assert (await tools("nvme-cli", "nvme", runner=runner))["nvme"].state is State.WARNING


async def test_a_program_that_does_not_run_is_missing() -> None:
    runner = ScriptedRunner()
    runner.on("mount", returncode=127, stderr="mount: error while loading shared libraries: libmount.so.1\n")
    runner.on("blkid", error=Unavailable("blkid cannot be started: Exec format error"))
    results = await tools("loop", "mount", "blkid", runner=runner)
    assert results["mount"].state is results["blkid"].state is State.MISSING
    assert "loading shared libraries" in results["mount"].message
    assert "Exec format error" in results["blkid"].message


# Sessions and portals


@pytest.fixture
def tree(tmp_path: Path) -> NvmeTree:
    return NvmeTree(tmp_path / "nvme")


def sessions_in(tree: NvmeTree) -> list[Session]:
    return list(sessions_of(NvmeSysfs(tree.host).scan(), PREFIX))


def test_sessions_that_are_not_live_are_warnings_and_foreign_ones_are_nobodys(tree: NvmeTree) -> None:
    tree.add_session(f"{PREFIX}live")
    tree.add_session(f"{PREFIX}away", state="connecting")
    tree.add_session(f"{PREFIX}dead", state="dead")
    tree.add_session("nqn.2019-08.org.example:foreign", state="dead")
    summary, away, dead = look_at_sessions(sessions_in(tree), PREFIX)
    assert summary == ok("sessions", f"3 of {PREFIX}, 1 live on every path")
    assert (away.state, dead.state) == (State.WARNING, State.WARNING)
    assert f"{PREFIX}away: nvme1 (192.0.2.1:4420) connecting" in away.message
    assert "sweep" in dead.remedy


def test_a_left_over_under_a_mount_is_a_warning(tree: NvmeTree) -> None:
    subsystem = tree.path("sys/class/nvme-subsystem/nvme-subsys9")
    subsystem.mkdir()
    (subsystem / "subsysnqn").write_text(f"{PREFIX}left")
    _, left = look_at_sessions(sessions_in(tree), PREFIX)
    assert (left.state, "unmount" in left.remedy) == (State.WARNING, True)


@pytest.mark.parametrize(
    ("text", "portal"),
    [
        ("192.0.2.1", Portal("192.0.2.1", 4420)),
        ("192.0.2.1:4421", Portal("192.0.2.1", 4421)),
        ("array.example:4421", Portal("array.example", 4421)),
        ("2001:db8::1", Portal("2001:db8::1", 4420)),
        ("[2001:db8::1]", Portal("2001:db8::1", 4420)),
        ("[2001:db8::1]:4421", Portal("2001:db8::1", 4421)),
    ],
)
def test_a_portal_is_an_address_with_or_without_a_port(text: str, portal: Portal) -> None:
    assert parse_portal(text) == portal
    assert parse_portal(str(portal)) == portal


@pytest.mark.parametrize("text", ["", ":4420", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:70000", "a b", "x:٤", "x;y:1"])
def test_what_is_no_portal_is_refused_with_its_form(text: str) -> None:
    with pytest.raises(ConfigurationError, match="It reads ADDRESS"):
        parse_portal(text)


def record(volume_id: str, target: Target) -> StageRecord:
    return StageRecord(volume_id, "/staging", target, ConnectionConfig(), 1, "token", "boot")


def test_portals_are_known_from_flags_array_records_and_sessions_each_once(tree: NvmeTree) -> None:
    tree.add_session(f"{PREFIX}v0", traddr="192.0.2.4")
    tree.add_session(f"{PREFIX}v1", traddr="192.0.2.1")
    records = [
        record("vol-1", NvmeTarget(f"{PREFIX}v0", ("192.0.2.1", "192.0.2.3"))),
        record("vol-2", FileTarget("/image")),
    ]
    known = known_portals(
        [Portal("192.0.2.1"), Portal("192.0.2.1")], "nvmet://192.0.2.2:4421?backing=/x", records, sessions_in(tree)
    )
    assert known == {
        Portal("192.0.2.1", 4420): "given",
        Portal("192.0.2.2", 4421): "of the array",
        Portal("192.0.2.3", 4420): "of volume vol-1",
        Portal("192.0.2.4", 4420): f"of session {PREFIX}v0",
    }


@pytest.mark.parametrize(
    "array", ["local:///dir", "nvmet://[::1", "nvmet://x:99999", "nvmet://", "routeros+ssh://u@h/"]
)
def test_an_array_without_a_portal_of_its_own_adds_none(array: str) -> None:
    assert known_portals([], array, [], []) == {}


async def test_all_portals_are_asked_at_once_and_each_failure_has_its_remedy() -> None:
    states = {f"192.0.2.{number}": state for number, state in enumerate(PortalState)}
    together = asyncio.Barrier(len(states))

    async def probe(address: str, port: int, timeout: float) -> PortalAnswer:
        await together.wait()
        return PortalAnswer(address, port, states[address])

    results = await look_at_portals({Portal(address): "given" for address in states}, probe)
    assert [result.state for result in results].count(State.OK) == 1
    assert all(result.remedy for result in results if result.state is State.MISSING)


async def test_without_a_portal_it_says_how_to_name_one() -> None:
    (result,) = await look_at_portals({})
    assert (result.state, "--portal" in result.remedy) == (State.WARNING, True)


# The report


def test_a_backends_finding_is_ok_optional_or_missing_and_never_without_remedy() -> None:
    assert result_of(Finding("a", True, "well")) == ok("a", "well")
    assert result_of(Finding("a", True, "not installed", "apt-get install a")).state is State.WARNING
    assert result_of(Finding("a", False, "gone", "mend it")) == missing("a", "gone", "mend it")
    assert result_of(Finding("a", False, "gone")).remedy


def test_the_report_is_aligned_has_the_worst_last_and_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = [missing("nvme", "not \x1b[2Jthere", "get it"), ok("kernel", "Linux"), warning("a", "old", "renew it")]
    print_results(worst_last(results))
    assert capsys.readouterr().out.splitlines() == [
        "ok       kernel  Linux",
        "warning  a       old",
        "                 to do: renew it",
        "missing  nvme    not \\x1b[2Jthere",
        "                 to do: get it",
        "",
        "1 ok, 1 warning, 1 missing.",
    ]


async def test_a_machine_that_needs_nothing_is_well(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"connector": "memory", "host_root": str(root), "state_dir": f"{tmp_path}/state"}
    before = everything_below(tmp_path)
    assert await examine(load_settings(flags), portals=[], as_json=True) == 0
    results = json.loads(capsys.readouterr().out)
    assert {"driver", "NQN prefix", "kernel", "memory", "state directory"} <= {item["subject"] for item in results}
    assert all(set(item) == {"subject", "state", "message", "remedy"} for item in results)
    assert all(item["remedy"] for item in results if item["state"] != "ok")
    assert everything_below(tmp_path) == before


async def test_something_missing_is_exit_status_one(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"connector": "memory", "host_root": str(root), "state_dir": f"{tmp_path}/file/state"}
    (tmp_path / "file").touch()
    assert await examine(load_settings(flags), portals=[], as_json=False) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("1 missing.")


async def test_a_prefix_too_long_for_a_volumes_name_is_missing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {
        "connector": "memory",
        "host_root": str(root),
        "state_dir": str(tmp_path),
        "nqn_prefix": PREFIX + "x" * 190,
    }
    assert await examine(load_settings(flags), portals=[], as_json=False) == 1
    assert "--nqn-prefix" in capsys.readouterr().out


async def test_a_wrong_portal_or_connector_is_a_wrong_flag(root: Path, tmp_path: Path) -> None:
    flags = {"connector": "memory", "host_root": str(root), "state_dir": str(tmp_path)}
    with pytest.raises(ConfigurationError):
        await examine(load_settings(flags), portals=["192.0.2.1:x"], as_json=False)
    with pytest.raises(ConfigurationError, match="did you mean 'nvme-cli'"):
        await examine(load_settings({**flags, "connector": "nvmecli"}), portals=[], as_json=False)


async def test_a_controller_needs_nothing_of_its_machine(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Neither modules nor tools, identity, a state directory or root.
    flags = {"role": "controller", "connector": "nvme-cli", "host_root": str(root), "state_dir": f"{tmp_path}/file/x"}
    (tmp_path / "file").touch()
    assert await examine(load_settings(flags), portals=[], as_json=True) == 0
    assert [item["subject"] for item in json.loads(capsys.readouterr().out)] == ["driver", "NQN prefix"]


async def test_a_controllers_portals_are_asked_when_they_are_named(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"role": "controller", "connector": "nvme-cli", "host_root": str(root), "state_dir": str(tmp_path)}
    assert await examine(load_settings(flags), portals=["127.0.0.1:1"], as_json=True) == 1
    assert "portal" in [item["subject"] for item in json.loads(capsys.readouterr().out)]


async def test_a_node_needs_nothing_of_the_array(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"connector": "memory", "host_root": str(root), "state_dir": str(tmp_path), "array": "local:///volumes"}
    subjects = {}
    for role in ("all", "node"):
        assert await examine(load_settings({**flags, "role": role}), portals=[], as_json=True) == 0
        subjects[role] = {item["subject"] for item in json.loads(capsys.readouterr().out)}
    assert subjects["all"] - subjects["node"] == {"array"}
    assert "kernel" in subjects["node"]
