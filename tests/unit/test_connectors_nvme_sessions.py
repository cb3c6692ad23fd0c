"""NVMe sessions that are there, on made-up trees: disconnect, growth, health, contexts, and the machine's check."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rds_csi.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, Unavailable
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import DeviceNumber
from rds_csi.model.targets import FileTarget
from tests.support.nvme_bench import CONFIG, NQN, TARGET, UUID, NvmeBench

DATA = Path(__file__).parent / "data" / "nvme"


@pytest.fixture
def bench(tmp_path: Path) -> NvmeBench:
    return NvmeBench(tmp_path)


async def test_a_disconnect_is_seen_in_sysfs(bench: NvmeBench) -> None:
    bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=UUID)
    bench.runner.on("nvme", "disconnect", "-n", NQN, effect=bench.remove)
    await bench.connector.disconnect(TARGET)
    assert await bench.connector.find(TARGET) is None


async def test_a_part_of_a_session_is_disconnected_by_its_controllers(bench: NvmeBench) -> None:
    number = bench.tree.add_session(NQN)
    session = await bench.connector.resolver.session(NQN)
    assert session is not None
    bench.tree.add_path(number, NQN, traddr="192.0.2.2")
    bench.runner.on("nvme", "disconnect", "-d", "nvme0", effect=bench.remove)
    await bench.connector.drop(session)
    assert len(bench.runner.calls) == 1


async def test_an_nqn_with_a_comma_would_be_two_to_nvme_cli(bench: NvmeBench) -> None:
    odd = f"{NQN},{NQN}-other"
    number = bench.tree.add_session(odd)
    session = await bench.connector.resolver.session(odd)
    assert session is not None
    bench.runner.on("nvme", "disconnect", "-d", "nvme0", effect=lambda _: bench.tree.remove_session(number))
    await bench.connector.drop(session)
    assert len(bench.runner.calls) == 1


def give_to_another(bench: NvmeBench, *controllers: int) -> None:
    """The controllers go, and their names are another subsystem's."""
    for number in controllers:
        bench.tree.path(f"sys/class/nvme-subsystem/nvme-subsys0/nvme{number}").unlink()
        bench.tree.path(f"sys/class/nvme/nvme{number}/subsysnqn").write_text(f"{NQN}-other\n")


@pytest.mark.parametrize("link", ["nvme-cli", "fabrics"])
async def test_a_controller_whose_name_has_become_anothers_is_left_alone(tmp_path: Path, link: str) -> None:
    bench = NvmeBench(tmp_path, link=link)
    bench.tree.add_session(NQN)
    session = await bench.connector.resolver.session(NQN)
    assert session is not None
    give_to_another(bench, 0)
    await bench.connector.drop(session)
    assert bench.runner.calls == []


async def test_a_name_that_is_reused_during_a_disconnect_is_not_written_to(tmp_path: Path) -> None:
    bench = NvmeBench(tmp_path, link="fabrics")
    bench.tree.add_path(bench.tree.add_session(NQN), NQN, traddr="192.0.2.2")
    bench.runner.on(*bench.disconnect_program, effect=lambda _: give_to_another(bench, 0, 1))
    await bench.connector.disconnect(TARGET)
    assert len(bench.runner.calls) == 1


async def test_what_cannot_be_told_of_a_controller_ends_the_disconnect(tmp_path: Path) -> None:
    bench = NvmeBench(tmp_path, link="fabrics")
    bench.tree.add_path(bench.tree.add_session(NQN), NQN, traddr="192.0.2.2")
    shown = bench.tree.path("sys/class/nvme/nvme1/subsysnqn")

    def hide(argv: tuple[str, ...]) -> None:
        shown.unlink()
        shown.mkdir()

    bench.runner.on(*bench.disconnect_program, effect=hide)
    with pytest.raises(Unavailable, match="whose controller nvme1 is cannot be told"):
        await bench.connector.disconnect(TARGET)
    assert len(bench.runner.calls) == 1


async def test_a_disconnect_whose_program_crashed_is_tried_again(bench: NvmeBench) -> None:
    bench.tree.add_session(NQN)
    bench.runner.on("nvme", "disconnect", returncode=-6, times=2)
    bench.let_disconnect()
    await bench.connector.disconnect(TARGET)
    assert bench.disconnects == 3


async def test_a_disconnect_whose_program_crashes_for_ever_is_told(bench: NvmeBench) -> None:
    bench.tree.add_session(NQN)
    bench.runner.on("nvme", "disconnect", returncode=-6, stderr="corrupted size\n")
    with pytest.raises(Unavailable, match=r"still connected.*corrupted size"):
        await bench.connector.disconnect(TARGET)
    assert bench.disconnects == 3


@pytest.mark.parametrize("link", ["nvme-cli", "fabrics"])
async def test_a_crashed_disconnect_looks_again_before_it_is_repeated(tmp_path: Path, link: str) -> None:
    bench = NvmeBench(tmp_path, link=link)
    bench.tree.add_session(NQN)
    bench.runner.on(*bench.disconnect_program, returncode=-6, effect=lambda _: give_to_another(bench, 0))
    await bench.connector.disconnect(TARGET)
    assert bench.disconnects == 1


async def test_nothing_is_run_for_an_absent_session(bench: NvmeBench) -> None:
    await bench.connector.disconnect(TARGET)
    assert bench.runner.calls == []


async def test_zero_controllers_disconnected_is_not_believed(bench: NvmeBench) -> None:
    bench.tree.add_session(NQN)
    bench.runner.on("nvme", "disconnect", stdout=f"NQN:{NQN} disconnected 0 controller(s)\n")
    with pytest.raises(Unavailable, match="disconnected 0"):
        await bench.connector.disconnect(TARGET)


def hold(bench: NvmeBench, device: Path) -> None:
    (device / "holders" / "dm-0").touch()


def mount(bench: NvmeBench, device: Path) -> None:
    number = (device / "dev").read_text().strip()
    line = f"36 35 {number} / /mnt/with\\040blank rw - ext4 /dev/{device.name} rw\n"
    bench.tree.path("proc/self/mountinfo").write_text(line)


def mount_btrfs(bench: NvmeBench, device: Path) -> None:
    line = f"36 35 0:77 / /mnt/with\\040blank rw shared:1 - btrfs /dev/{device.name} rw\n"
    bench.tree.path("proc/self/mountinfo").write_text(line)


def mount_partition(bench: NvmeBench, device: Path) -> None:
    (device / "part").mkdir()
    (device / "part" / "partition").write_text("1\n")
    (device / "part" / "dev").write_text("259:99\n")
    bench.tree.path("proc/self/mountinfo").write_text("36 35 259:99 / /mnt/with\\040blank rw - ext4 /dev/x rw\n")


def swap(bench: NvmeBench, device: Path) -> None:
    with bench.tree.path("proc/swaps").open("a") as swaps:
        swaps.write(f"/dev/{device.name} partition 1024 0 -2\n")


def claim(bench: NvmeBench, device: Path) -> None:
    bench.tree.nodes.claimed.add(f"{bench.tree.host.dev}/{device.name}")


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (hold, "held by dm-0"),
        (mount, "mounted at /mnt/with blank"),
        (mount_btrfs, "mounted at /mnt/with blank"),
        (mount_partition, "mounted at /mnt/with blank"),
        (swap, "used as swap"),
        (claim, "another mount namespace"),
    ],
)
async def test_a_device_in_use_is_not_disconnected(
    bench: NvmeBench, use: Callable[[NvmeBench, Path], None], reason: str
) -> None:
    use(bench, bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=UUID))
    with pytest.raises(FailedPrecondition, match=reason):
        await bench.connector.disconnect(TARGET)
    assert bench.runner.calls == []


async def test_what_cannot_be_looked_at_is_not_taken_for_absent(bench: NvmeBench) -> None:
    bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=UUID)
    nqn = next(bench.tree.path("sys/class/nvme-subsystem").glob("*/subsysnqn"))
    nqn.unlink()
    nqn.mkdir()
    with pytest.raises(Unavailable, match="cannot be looked at: Is a directory"):
        await bench.connector.find(TARGET)
    with pytest.raises(Unavailable, match="cannot be looked at"):
        await bench.connector.disconnect(TARGET)


async def test_a_device_whose_use_cannot_be_told_is_not_disconnected(bench: NvmeBench) -> None:
    bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=UUID)
    mounts = bench.tree.path("proc/self/mountinfo")
    mounts.unlink(missing_ok=True)
    mounts.mkdir()
    with pytest.raises(Unavailable, match="in use cannot be told"):
        await bench.connector.disconnect(TARGET)
    assert bench.runner.calls == []


async def test_growth_is_awaited_after_a_rescan(bench: NvmeBench) -> None:
    device = bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=UUID)
    rescan = bench.tree.path("sys/class/nvme/nvme0/rescan_controller")

    def grow() -> None:
        assert rescan.read_text().startswith("1")
        (device / "size").write_text(f"{(2 << 30) // 512}\n")

    bench.clock.at_first_pause = grow
    assert (await bench.connector.rescan(TARGET, 2 << 30)).size == 2 << 30


async def test_growth_that_does_not_come_ends_the_wait(bench: NvmeBench) -> None:
    bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=UUID)
    assert (await bench.connector.rescan(TARGET, 1 << 30)).size == 1 << 30
    with pytest.raises(DeadlineExceeded, match="did not grow"):
        await bench.connector.rescan(TARGET, 2 << 30)


async def test_only_a_connected_target_can_be_rescanned(bench: NvmeBench) -> None:
    with pytest.raises(Unavailable, match="not connected"):
        await bench.connector.rescan(TARGET, 1)


async def test_growth_of_an_unknown_size_is_looked_for(bench: NvmeBench) -> None:
    device = bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=UUID)
    rescan = bench.tree.path("sys/class/nvme/nvme0/rescan_controller")

    def grow() -> None:
        assert rescan.read_text().startswith("1")
        (device / "size").write_text(f"{(2 << 30) // 512}\n")

    bench.clock.at_first_pause = grow
    assert (await bench.connector.rescan(TARGET, 0)).size == 2 << 30


async def test_a_device_that_has_not_grown_is_told_as_it_is_soon(bench: NvmeBench) -> None:
    bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=UUID)
    assert (await bench.connector.rescan(TARGET, 0)).size == 1 << 30
    assert bench.tree.path("sys/class/nvme/nvme0/rescan_controller").read_text().startswith("1")
    assert bench.clock.seconds < 2


@pytest.mark.parametrize("size", [0, 2 << 30])
async def test_a_device_that_vanishes_while_it_is_rescanned_is_unavailable(bench: NvmeBench, size: int) -> None:
    bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=UUID)
    bench.clock.at_first_pause = lambda: bench.tree.remove_session(0)
    with pytest.raises(Unavailable, match="vanished"):
        await bench.connector.rescan(TARGET, size)


async def test_health_is_a_sentence_for_each_trouble(bench: NvmeBench) -> None:
    assert "not connected" in await bench.connector.health(TARGET)
    number = bench.tree.add_session(NQN)
    assert "namespace is not there" in await bench.connector.health(TARGET)
    bench.tree.add_namespace(number, uuid=UUID)
    assert await bench.connector.health(TARGET) == ""
    bench.tree.add_path(number, NQN, state="connecting", traddr="192.0.2.2")
    assert "nvme1 (192.0.2.2:4420) connecting" in await bench.connector.health(TARGET)


async def test_a_device_of_nobody_has_no_target(bench: NvmeBench) -> None:
    assert await bench.connector.target_of(DeviceNumber(8, 0)) is None


def test_contexts_are_for_nvme_targets_only(bench: NvmeBench) -> None:
    config = ConnectionConfig(ctrl_loss_tmo=60)
    assert bench.connector.read_context(bench.connector.volume_context(TARGET, config)) == (TARGET, config)
    with pytest.raises(InvalidArgument, match="--connector loop"):
        bench.connector.volume_context(FileTarget("/images/v"), CONFIG)
    with pytest.raises(InvalidArgument, match="--connector loop"):
        bench.connector.read_context(FileTarget("/images/v").to_context())


async def test_a_machine_that_lacks_everything_is_told_so(bench: NvmeBench) -> None:
    bench.tree.path("dev/nvme-fabrics").unlink()
    bench.tree.path("state").touch()
    bench.tree.path("etc/nvme/hostid").unlink()
    bench.runner.on("nvme", error=Unavailable("nvme is not installed"))
    bench.runner.on("modprobe", error=Unavailable("modprobe is not installed"))
    findings = await bench.connector.check()
    assert [finding.subject for finding in findings] == ["nvme-cli", "nvme-tcp", "host identity"]
    assert not any(finding.ok for finding in findings)
    assert all(finding.remedy for finding in findings)


@pytest.mark.parametrize("setting", ["k6.1-cli2.3-mp", "k6.12-cli2.13-mp"])
async def test_a_machine_that_has_everything_is_told_its_versions(bench: NvmeBench, setting: str) -> None:
    programs: list[dict[str, Any]] = json.loads((DATA / setting / "programs.json").read_text())
    (version,) = (item for item in programs if item["cmd"] == "nvme version")
    bench.runner.on("nvme", "version", stdout=version["stdout"])
    findings = await bench.connector.check()
    assert all(finding.ok for finding in findings)
    assert findings[0].message.startswith("nvme version 2.")
