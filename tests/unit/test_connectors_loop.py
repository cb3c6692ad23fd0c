"""The loop connector on made-up trees: a scripted losetup binds and detaches as the kernel would."""

import asyncio
from pathlib import Path

import pytest

from rds_csi.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.targets import FileTarget, NvmeTarget
from tests.support.loop_bench import LOOP_MAJOR, SIZE, LoopBench

CONFIG = ConnectionConfig()


@pytest.fixture
def bench(tmp_path: Path) -> LoopBench:
    return LoopBench(tmp_path)


async def test_a_file_becomes_a_device_by_one_program(bench: LoopBench) -> None:
    bench.losetup_works()
    connected = await bench.connector.connect(bench.target, CONFIG)
    assert connected.created
    assert connected.device == Device(f"{bench.host.dev}/loop3", DeviceNumber(LOOP_MAJOR, 3), SIZE)
    assert bench.runner.calls == [("losetup", "--find", "--show", "--direct-io=on", str(bench.image))]
    assert await bench.connector.find(bench.target) == connected.device
    assert await bench.connector.target_of(connected.device.number) == bench.target
    assert await bench.connector.health(bench.target) == ""


async def test_a_device_that_is_there_is_used_without_a_program(bench: LoopBench) -> None:
    bench.bind("loop5")
    connected = await bench.connector.connect(bench.target, CONFIG)
    assert not connected.created
    assert connected.device.path.endswith("/loop5")
    assert bench.runner.calls == []


async def test_a_device_bound_in_another_mount_namespace_is_recognised(bench: LoopBench) -> None:
    bench.bind("loop5", text="/elsewhere/image")
    assert not (await bench.connector.connect(bench.target, CONFIG)).created


async def test_a_device_of_a_file_made_anew_is_not_used(bench: LoopBench) -> None:
    bench.bind("loop5")
    bench.image.rename(bench.image.with_suffix(".old"))
    bench.make_image()
    bench.losetup_works()
    connected = await bench.connector.connect(bench.target, CONFIG)
    assert connected.created
    assert connected.device.path.endswith("/loop3")


@pytest.mark.parametrize("part", [{"offset": 4096}, {"ro": 1}])
async def test_a_device_of_a_part_or_for_reading_is_not_ours(bench: LoopBench, part: dict[str, int]) -> None:
    bench.bind("loop5", offset=part.get("offset", 0), ro=part.get("ro", 0))
    assert await bench.connector.find(bench.target) is None
    await bench.connector.disconnect(bench.target)
    assert bench.runner.calls == []


async def test_a_device_about_to_go_is_waited_out(bench: LoopBench) -> None:
    bench.bind("loop5", autoclear=1)
    bench.losetup_works()
    bench.clock.at_first_pause = lambda: bench.release("loop5")
    assert (await bench.connector.connect(bench.target, CONFIG)).created


async def test_a_device_about_to_go_that_stays_open_is_refused(bench: LoopBench) -> None:
    bench.bind("loop5", autoclear=1)
    with pytest.raises(FailedPrecondition, match="fuser"):
        await bench.connector.connect(bench.target, CONFIG)


async def test_without_direct_io_the_file_is_bound_all_the_same(bench: LoopBench) -> None:
    bench.runner.on(
        "losetup", "--find", "--show", "--direct-io=on", returncode=1, stderr="losetup: set direct io failed"
    )
    bench.losetup_works()
    assert (await bench.connector.connect(bench.target, CONFIG)).created
    assert bench.runner.called("losetup") == 2


async def test_a_device_bound_before_losetup_complained_is_used(bench: LoopBench) -> None:
    bench.runner.on(
        *("losetup", "--find", "--show", "--direct-io=on"),
        returncode=1,
        stderr="losetup: set direct io failed",
        effect=lambda _: bench.bind("loop3"),
    )
    assert (await bench.connector.connect(bench.target, CONFIG)).created
    assert bench.runner.called("losetup") == 1


async def test_a_losetup_that_fails_is_unavailable_with_its_last_line(bench: LoopBench) -> None:
    bench.runner.on("losetup", "--find", returncode=1, stderr="losetup: cannot find an unused loop device")
    with pytest.raises(Unavailable, match="cannot find an unused loop device"):
        await bench.connector.connect(bench.target, CONFIG)
    assert bench.runner.called("losetup", "--detach") == 0


async def test_a_name_that_the_kernel_does_not_know_is_not_believed(bench: LoopBench) -> None:
    bench.runner.on("losetup", "--find", stdout="/dev/loop9\n")
    with pytest.raises(Unavailable):
        await bench.connector.connect(bench.target, CONFIG)


async def test_a_cancelled_connect_detaches_what_it_attached(bench: LoopBench) -> None:
    bench.losetup_works()

    def bind_and_cancel(_: tuple[str, ...]) -> None:
        bench.bind("loop3")
        call.cancel()

    bench.runner.rules[0].effect = bind_and_cancel
    call = asyncio.create_task(bench.connector.connect(bench.target, CONFIG))
    with pytest.raises(asyncio.CancelledError):
        await call
    assert bench.runner.calls[-1] == ("losetup", "--detach", f"{bench.host.dev}/loop3")
    assert await bench.connector.find(bench.target) is None


async def test_a_node_that_does_not_come_is_unavailable_and_undone(bench: LoopBench) -> None:
    bench.losetup_works()

    def bind_without_node(_: tuple[str, ...]) -> None:
        bench.bind("loop3")
        bench.nodes.numbers.clear()

    bench.runner.rules[0].effect = bind_without_node
    with pytest.raises(Unavailable, match="block device 7:3"):
        await bench.connector.connect(bench.target, CONFIG)
    assert bench.runner.called("losetup", "--detach") == 1


async def test_a_device_of_an_unlinked_file_is_not_used(bench: LoopBench) -> None:
    bench.bind("loop5", text=f"{bench.image} (deleted)")
    bench.image.rename(bench.image.with_suffix(".old"))
    bench.make_image()
    bench.losetup_works()
    assert (await bench.connector.connect(bench.target, CONFIG)).device.path.endswith("/loop3")
    await bench.connector.disconnect(bench.target)
    assert bench.runner.calls[-1][2:] == (f"{bench.host.dev}/loop3", f"{bench.host.dev}/loop5")


async def test_a_missing_file_is_not_found(bench: LoopBench) -> None:
    bench.image.unlink()
    with pytest.raises(NotFound, match="does not exist"):
        await bench.connector.connect(bench.target, CONFIG)


async def test_a_missing_directory_is_not_taken_for_a_missing_volume(bench: LoopBench) -> None:
    with pytest.raises(FailedPrecondition, match="directory"):
        await bench.connector.connect(FileTarget(f"{bench.root}/absent/image"), CONFIG)


async def test_a_directory_is_no_image(bench: LoopBench) -> None:
    with pytest.raises(FailedPrecondition, match="not a regular file"):
        await bench.connector.connect(FileTarget(str(bench.root)), CONFIG)


async def test_a_disconnect_is_one_program_and_seen(bench: LoopBench) -> None:
    bench.losetup_works()
    bench.bind("loop5")
    await bench.connector.disconnect(bench.target)
    assert bench.runner.calls == [("losetup", "--detach", f"{bench.host.dev}/loop5")]
    await bench.connector.disconnect(bench.target)
    assert len(bench.runner.calls) == 1


async def test_the_device_of_a_deleted_file_is_detached_and_reported(bench: LoopBench) -> None:
    bench.losetup_works()
    bench.bind("loop5", text=f"{bench.image} (deleted)")
    bench.image.unlink()
    assert "deleted" in await bench.connector.health(bench.target)
    assert await bench.connector.target_of(DeviceNumber(LOOP_MAJOR, 5)) == bench.target
    await bench.connector.disconnect(bench.target)
    assert bench.runner.called("losetup", "--detach") == 1


async def test_a_file_that_is_called_deleted_is_left_alone(bench: LoopBench) -> None:
    other = bench.image.with_name("image (deleted)")
    other.write_bytes(b"x" * 512)
    bench.bind("loop5", file=other)
    await bench.connector.disconnect(bench.target)
    assert bench.runner.calls == []
    assert not (await bench.connector.connect(FileTarget(str(other)), CONFIG)).created
    assert await bench.connector.target_of(DeviceNumber(LOOP_MAJOR, 5)) == FileTarget(str(other))


async def test_a_mounted_device_stays(bench: LoopBench) -> None:
    bench.bind("loop5")
    bench.write("proc/self/mountinfo", "36 35 7:5 / /mnt rw - ext4 /dev/loop5 rw\n")
    with pytest.raises(FailedPrecondition, match="mounted at /mnt"):
        await bench.connector.disconnect(bench.target)
    assert bench.runner.calls == []


async def test_a_device_that_somebody_has_open_is_told(bench: LoopBench) -> None:
    bench.bind("loop5")
    bench.runner.on("losetup", "--detach")
    with pytest.raises(FailedPrecondition, match=r"loop5 did not go away.*fuser"):
        await bench.connector.disconnect(bench.target)


async def test_growth_is_seen(bench: LoopBench) -> None:
    device = bench.bind("loop5")
    bench.runner.on("losetup", "--set-capacity", effect=lambda _: (device / "size").write_text(f"{2 * SIZE // 512}\n"))
    assert (await bench.connector.rescan(bench.target, SIZE)).size == SIZE
    assert bench.runner.calls == []
    assert (await bench.connector.rescan(bench.target, 2 * SIZE)).size == 2 * SIZE
    with pytest.raises(DeadlineExceeded, match="did not grow"):
        await bench.connector.rescan(bench.target, 3 * SIZE)


async def test_only_an_attached_file_can_be_rescanned(bench: LoopBench) -> None:
    with pytest.raises(NotFound):
        await bench.connector.rescan(bench.target, SIZE)


async def test_a_device_of_nobody_has_no_target(bench: LoopBench) -> None:
    assert await bench.connector.target_of(DeviceNumber(8, 0)) is None


def test_contexts_are_for_files_only(bench: LoopBench) -> None:
    config = ConnectionConfig(ctrl_loss_tmo=60)
    assert bench.connector.read_context(bench.connector.volume_context(bench.target, config)) == (bench.target, config)
    nvme = NvmeTarget("nqn.2026-01.io.example:v0", ("192.0.2.1",))
    with pytest.raises(InvalidArgument, match="--connector nvme-cli"):
        bench.connector.volume_context(nvme, CONFIG)
    with pytest.raises(InvalidArgument, match="ctrlLossTmo"):
        bench.connector.read_context({**bench.target.to_context(), "ctrlLossTmo": "x"})
    assert bench.connector.host_nqn == ""


async def test_the_machine_is_checked(bench: LoopBench) -> None:
    bench.runner.on("losetup", "--version", stdout="losetup from util-linux 2.38.1\n", times=1)
    bench.runner.on("losetup", error=Unavailable("losetup is not installed"))
    findings = await bench.connector.check()
    assert [finding.ok for finding in findings] == [True, False]
    bench.write("dev/loop-control", "")
    assert [finding.ok for finding in await bench.connector.check()] == [False, True]
    assert findings[1].remedy
