"""Connecting on made-up trees, with both links: what is there is used, what is missing is made, failures undone."""

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rds_csi.connectors.nvme_failures import Reason
from rds_csi.errors import DeadlineExceeded, DriverError, FailedPrecondition, InvalidArgument, Unavailable
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.targets import NvmeTarget
from tests.support.nvme_bench import ATTEMPTS, CONFIG, NQN, OTHER_UUID, TARGET, UUID, NvmeBench
from tests.support.nvme_tree import HOSTID, HOSTNQN

DATA = Path(__file__).parent / "data" / "nvme"
REFUSED = "could not add new controller: connection refused"
GENERAL = "could not add new controller: failed to write to nvme-fabrics device"


@pytest.fixture(params=["nvme-cli", "fabrics"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> NvmeBench:
    return NvmeBench(tmp_path, link=request.param)


@pytest.fixture
def cli(tmp_path: Path) -> NvmeBench:
    return NvmeBench(tmp_path)


async def test_a_target_is_connected_with_the_whole_config(cli: NvmeBench) -> None:
    cli.runner.on(*cli.connect_program, effect=cli.export())

    connected = await cli.connector.connect(TARGET, CONFIG)

    assert connected.created
    assert connected.device == Device(f"{cli.tree.host.dev}/nvme0n1", DeviceNumber(259, 1), 1 << 30)
    (argv,) = cli.runner.calls
    assert argv == (
        *("nvme", "connect", "-t", "tcp", "-a", "192.0.2.1", "-s", "4420", "-n", NQN),
        *("-q", HOSTNQN, "-I", HOSTID, "-l", "-1", "-c", "5"),
    )
    assert cli.connector.host_nqn == HOSTNQN


@pytest.mark.parametrize("multipath", [True, False])
async def test_a_live_session_is_used_and_no_program_is_run(tmp_path: Path, multipath: bool) -> None:
    bench = NvmeBench(tmp_path, multipath=multipath)
    bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=UUID)

    connected = await bench.connector.connect(TARGET, CONFIG)

    assert not connected.created
    assert bench.runner.calls == []
    assert await bench.connector.find(TARGET) == connected.device
    assert await bench.connector.target_of(connected.device.number) == TARGET


async def test_a_connecting_session_is_waited_for(bench: NvmeBench) -> None:
    number = bench.tree.add_session(NQN, state="connecting")
    bench.tree.add_namespace(number, uuid=UUID)
    bench.clock.at_first_pause = lambda: bench.tree.set_state(number, "live")
    assert not (await bench.connector.connect(TARGET, CONFIG)).created
    assert bench.runner.calls == []


async def test_a_session_that_stays_connecting_is_unavailable_and_left_alone(bench: NvmeBench) -> None:
    bench.tree.add_session(NQN, state="connecting")
    with pytest.raises(Unavailable, match=r"nvme0 \(192.0.2.1:4420\) connecting"):
        await bench.connector.connect(TARGET, CONFIG)
    assert bench.runner.calls == []


async def test_a_session_that_is_being_deleted_is_waited_out_and_made_anew(bench: NvmeBench) -> None:
    number = bench.tree.add_session(NQN, state="deleting (no IO)")
    bench.runner.on(*bench.connect_program, effect=bench.export())
    bench.clock.at_first_pause = lambda: bench.tree.remove_session(number)
    assert (await bench.connector.connect(TARGET, CONFIG)).created


async def test_a_refused_portal_is_tried_again(bench: NvmeBench) -> None:
    bench.runner.on(*bench.connect_program, returncode=1, stderr=REFUSED, times=ATTEMPTS - 1)
    bench.runner.on(*bench.connect_program, effect=bench.export())
    assert (await bench.connector.connect(TARGET, CONFIG)).created
    assert bench.connects == ATTEMPTS


async def test_a_portal_that_stays_away_is_unavailable_with_its_attempts(bench: NvmeBench) -> None:
    bench.runner.on(*bench.connect_program, returncode=1, stderr=REFUSED)
    with pytest.raises(Unavailable, match=rf"192.0.2.1:4420.*connection refused.*{ATTEMPTS} attempts") as caught:
        await bench.connector.connect(TARGET, CONFIG)
    assert caught.value.remedy
    assert bench.connects == ATTEMPTS
    assert bench.disconnects == 0


@pytest.mark.parametrize("setting", ["k6.1-cli2.3-mp", "k6.12-cli2.13-mp"])
@pytest.mark.parametrize(
    ("capture", "answer", "error", "attempts"),
    [
        ("01-connect-nomodules", Reason.UNTOLD, FailedPrecondition, 1),
        ("15-connect-already", Reason.UNTOLD, Unavailable, ATTEMPTS),
        ("16-connect-refused", Reason.UNTOLD, Unavailable, ATTEMPTS),
        ("17-connect-unknown-nqn", None, FailedPrecondition, 1),
        ("17-connect-wrongport-nqn", None, FailedPrecondition, 1),
        ("18-connect-badhost", Reason.UNTOLD, Unavailable, ATTEMPTS),
        ("18-connect-badopt", Reason.UNTOLD, InvalidArgument, 1),
        ("18-connect-blackhole", Reason.TIMED_OUT, Unavailable, ATTEMPTS),
        ("18-connect-host-not-allowed", None, FailedPrecondition, 1),
        ("18-connect-noroute", Reason.UNREACHABLE, Unavailable, ATTEMPTS),
        ("18-connect-notransport", Reason.UNTOLD, InvalidArgument, 1),
        ("18-connect-unreachable", Reason.UNREACHABLE, Unavailable, ATTEMPTS),
    ],
)
async def test_every_captured_failure_ends_as_it_should(
    cli: NvmeBench, setting: str, capture: str, answer: Reason | None, error: type[DriverError], attempts: int
) -> None:
    programs: list[dict[str, Any]] = json.loads((DATA / setting / "programs.json").read_text())
    (program,) = (item for item in programs if item["name"] == capture)
    result = {key: program[key] for key in ("returncode", "stdout", "stderr")}
    cli.runner.on(*cli.connect_program, **result)
    cli.answer = answer

    with pytest.raises(error) as caught:
        await cli.connector.connect(TARGET, CONFIG)

    assert type(caught.value) is error
    assert cli.connects == attempts
    assert "192.0.2.1:4420" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("setting", ["k6.1-cli2.3-mp", "k6.12-cli2.13-mp"])
@pytest.mark.parametrize("capture", ["10-connect-ok", "11-connect-ok-json", "12-connect-ok-normal"])
async def test_every_captured_success_is_a_session(cli: NvmeBench, setting: str, capture: str) -> None:
    programs: list[dict[str, Any]] = json.loads((DATA / setting / "programs.json").read_text())
    (program,) = (item for item in programs if item["name"] == capture)
    cli.runner.on(*cli.connect_program, stdout=program["stdout"], stderr=program["stderr"], effect=cli.export())
    assert (await cli.connector.connect(TARGET, CONFIG)).created


async def test_the_portal_is_asked_only_when_the_text_does_not_tell(cli: NvmeBench) -> None:
    cli.runner.on(*cli.connect_program, returncode=1, stderr=REFUSED, times=1)
    cli.runner.on(*cli.connect_program, returncode=1, stderr=GENERAL)
    with pytest.raises(FailedPrecondition, match="not allowed"):
        await cli.connector.connect(TARGET, CONFIG)
    assert cli.asked == [("192.0.2.1", 4420)]


async def test_already_connected_is_verified_and_never_ours(bench: NvmeBench) -> None:
    bench.runner.on(*bench.connect_program, returncode=1, stderr="already connected", effect=bench.export())
    connected = await bench.connector.connect(TARGET, CONFIG)
    assert not connected.created


async def test_another_namespace_is_refused_and_the_session_undone(bench: NvmeBench) -> None:
    bench.runner.on(*bench.connect_program, effect=bench.export(uuid=OTHER_UUID))
    bench.runner.on(*bench.disconnect_program, effect=bench.remove)
    with pytest.raises(FailedPrecondition, match=OTHER_UUID):
        await bench.connector.connect(TARGET, CONFIG)
    assert bench.disconnects == 1


async def test_a_session_of_others_is_not_undone(bench: NvmeBench) -> None:
    bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=OTHER_UUID)
    with pytest.raises(FailedPrecondition, match=OTHER_UUID):
        await bench.connector.connect(TARGET, CONFIG)
    assert bench.runner.calls == []


async def test_a_device_that_does_not_appear_is_unavailable_and_undone(bench: NvmeBench) -> None:
    bench.runner.on(*bench.connect_program, effect=bench.export(namespace=False))
    bench.runner.on(*bench.disconnect_program, effect=bench.remove)
    with pytest.raises(Unavailable, match="no device"):
        await bench.connector.connect(TARGET, CONFIG)
    assert bench.disconnects == 1
    assert max(bench.clock.pauses) == 0.5


async def test_a_node_of_another_device_is_not_taken(bench: NvmeBench) -> None:
    bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=UUID)
    bench.tree.nodes.numbers[f"{bench.tree.host.dev}/nvme0n1"] = DeviceNumber(8, 0)
    assert await bench.connector.find(TARGET) is None
    with pytest.raises(Unavailable, match="no device"):
        await bench.connector.connect(TARGET, CONFIG)


async def test_a_cancelled_connect_undoes_what_it_may_have_made(bench: NvmeBench) -> None:
    bench.runner.on(*bench.connect_program, hang=True)
    bench.runner.on(*bench.disconnect_program, effect=bench.remove)
    call = asyncio.create_task(bench.connector.connect(TARGET, CONFIG))
    await bench.runner.hanging.wait()
    # Killed just after the kernel had made the session.
    bench.tree.add_namespace(bench.tree.add_session(NQN), uuid=UUID)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert bench.connects == len(bench.runner.killed) == 1
    assert bench.disconnects == 1


async def test_a_cancelled_wait_leaves_a_session_that_was_there(bench: NvmeBench) -> None:
    bench.tree.add_session(NQN, state="connecting")
    call = asyncio.create_task(bench.connector.connect(TARGET, CONFIG))
    bench.clock.at_first_pause = call.cancel
    with pytest.raises(asyncio.CancelledError):
        await call
    assert bench.runner.calls == []


async def test_a_program_that_hangs_is_tried_again_and_what_it_made_is_found(bench: NvmeBench) -> None:
    hung = DeadlineExceeded("nvme did not end within 30 s and was killed")
    bench.runner.on(*bench.connect_program, error=hung, effect=bench.export())
    connected = await bench.connector.connect(TARGET, CONFIG)
    assert bench.connects == 1
    assert connected.created


def not_started(number: int) -> Unavailable:
    """What the runner raises, with its cause."""
    error = Unavailable(f"/usr/sbin/nvme cannot be started: {os.strerror(number)}")
    error.__cause__ = OSError(number, os.strerror(number))
    return error


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE])
async def test_a_process_that_cannot_be_started_just_now_is_tried_again(bench: NvmeBench, number: int) -> None:
    bench.runner.on(*bench.connect_program, error=not_started(number))
    with pytest.raises(Unavailable, match=f"at 192.0.2.1:4420: .*{os.strerror(number)}.*after {ATTEMPTS} attempts"):
        await bench.connector.connect(TARGET, CONFIG)
    assert bench.connects == ATTEMPTS


async def test_a_program_that_may_not_be_started_fails_at_once(bench: NvmeBench) -> None:
    bench.runner.on(*bench.connect_program, error=not_started(errno.EACCES))
    with pytest.raises(Unavailable, match="cannot be started"):
        await bench.connector.connect(TARGET, CONFIG)
    assert bench.connects == 1


async def test_a_process_that_cannot_be_started_is_unavailable(bench: NvmeBench) -> None:
    bench.runner.on(*bench.connect_program, error=OSError("Resource temporarily unavailable"))
    with pytest.raises(Unavailable, match="temporarily unavailable"):
        await bench.connector.connect(TARGET, CONFIG)


async def test_a_name_without_an_address_is_unavailable(bench: NvmeBench) -> None:
    with pytest.raises(Unavailable, match="cannot be resolved"):
        await bench.connector.connect(NvmeTarget(NQN, ("array.invalid",), 4420, UUID), CONFIG)
    assert bench.connects == 0


async def test_a_missing_tool_fails_at_once(cli: NvmeBench) -> None:
    cli.runner.on("nvme", error=Unavailable("nvme is not installed", remedy="Install the package."))
    with pytest.raises(Unavailable, match="not installed"):
        await cli.connector.connect(TARGET, CONFIG)
    assert cli.connects == 1


async def test_a_missing_module_is_loaded_once(bench: NvmeBench) -> None:
    fabrics = bench.tree.path("dev/nvme-fabrics")
    fabrics.unlink()
    bench.runner.on("modprobe", "nvme-tcp", effect=lambda _: fabrics.touch())
    bench.runner.on(*bench.connect_program, effect=bench.export())
    assert (await bench.connector.connect(TARGET, CONFIG)).created


async def test_a_module_that_cannot_be_loaded_is_told_with_its_remedy(bench: NvmeBench) -> None:
    bench.tree.path("dev/nvme-fabrics").unlink()
    bench.runner.on("modprobe", returncode=1, stderr="modprobe: FATAL: Module nvme-tcp not found")
    with pytest.raises(FailedPrecondition, match=r"Module nvme-tcp not found.*modprobe nvme-tcp"):
        await bench.connector.connect(TARGET, CONFIG)
    with pytest.raises(FailedPrecondition, match="is missing"):
        await bench.connector.connect(TARGET, CONFIG)
    assert bench.runner.called("modprobe") == 1
    assert bench.connects == 0


async def test_fast_io_fail_is_written_to_sysfs(bench: NvmeBench) -> None:
    bench.runner.on(*bench.connect_program, effect=bench.export())
    await bench.connector.connect(TARGET, ConnectionConfig(fast_io_fail_tmo=30))
    assert bench.tree.path("sys/class/nvme/nvme0/fast_io_fail_tmo").read_text().startswith("30")


async def test_all_portals_are_connected_and_one_is_enough(bench: NvmeBench) -> None:
    target = NvmeTarget(NQN, ("192.0.2.1", "192.0.2.2"), 4420, UUID)
    bench.portals["192.0.2.1"] = Reason.REFUSED
    bench.runner.on(*bench.connect_program, effect=bench.export())
    assert (await bench.connector.connect(target, CONFIG)).created
    assert bench.connects == 1


async def test_without_multipath_one_portal_is_connected(tmp_path: Path) -> None:
    bench = NvmeBench(tmp_path, multipath=False)
    target = NvmeTarget(NQN, ("192.0.2.1", "192.0.2.2"), 4420, UUID)
    bench.runner.on(*bench.connect_program, effect=bench.export())
    assert (await bench.connector.connect(target, CONFIG)).created
    assert bench.connects == 1


async def test_a_host_name_is_resolved_before_nvme_sees_it(cli: NvmeBench) -> None:
    cli.runner.on(*cli.connect_program, effect=cli.export())
    await cli.connector.connect(NvmeTarget(NQN, ("localhost",), 4420, UUID), CONFIG)
    (argv,) = cli.runner.calls
    assert argv[argv.index("-a") + 1] in ("127.0.0.1", "::1")
