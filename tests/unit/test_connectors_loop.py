"""The loop connector on made-up trees, which change as the kernel would change them."""

import asyncio
import errno
import os
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


async def test_a_file_becomes_a_device_with_direct_io(bench: LoopBench) -> None:
    connected = await bench.connector.connect(bench.target, CONFIG)
    assert connected.created
    assert connected.device == Device(f"{bench.host.dev}/loop3", DeviceNumber(LOOP_MAJOR, 3), SIZE)
    assert bench.kernel.calls == [("configure", "loop3")]
    assert bench.kernel.direct_io == {connected.device.path: True}
    assert await bench.connector.find(bench.target) == connected.device
    assert await bench.connector.target_of(connected.device.number) == bench.target
    assert await bench.connector.health(bench.target) == ""


async def test_a_device_that_is_there_is_used(bench: LoopBench) -> None:
    bench.bind("loop5")
    connected = await bench.connector.connect(bench.target, CONFIG)
    assert not connected.created
    assert connected.device.path.endswith("/loop5")
    assert bench.kernel.calls == []


async def test_a_device_bound_in_another_mount_namespace_is_recognised(bench: LoopBench) -> None:
    bench.bind("loop5", text="/elsewhere/image")
    assert not (await bench.connector.connect(bench.target, CONFIG)).created


async def test_a_device_of_a_file_made_anew_is_not_used(bench: LoopBench) -> None:
    bench.bind("loop5")
    bench.image.rename(bench.image.with_suffix(".old"))
    bench.make_image()
    connected = await bench.connector.connect(bench.target, CONFIG)
    assert connected.created
    assert connected.device.path.endswith("/loop3")


@pytest.mark.parametrize(
    ("offset", "read_only", "text"), [(4096, False, ""), (0, True, ""), (0, True, "{image} (deleted)")]
)
async def test_a_device_of_a_part_or_for_reading_is_not_ours(
    bench: LoopBench, offset: int, read_only: bool, text: str
) -> None:
    bench.bind("loop5", offset=offset, read_only=read_only, text=text.format(image=bench.image))
    assert await bench.connector.find(bench.target) is None
    await bench.connector.disconnect(bench.target)
    assert bench.kernel.calls == []


async def test_a_device_that_is_published_read_only_stays_ours(bench: LoopBench) -> None:
    device = bench.bind("loop5")
    (device / "ro").write_text("1\n")
    assert not (await bench.connector.connect(bench.target, CONFIG)).created
    assert await bench.connector.find(bench.target) is not None
    assert bench.kernel.calls == []


async def test_a_device_about_to_go_is_waited_out(bench: LoopBench) -> None:
    bench.bind("loop5", autoclear=1)
    bench.clock.at_first_pause = lambda: bench.release("loop5")
    assert (await bench.connector.connect(bench.target, CONFIG)).created


async def test_a_device_about_to_go_that_stays_open_is_refused(bench: LoopBench) -> None:
    bench.bind("loop5", autoclear=1)
    with pytest.raises(FailedPrecondition, match="fuser"):
        await bench.connector.connect(bench.target, CONFIG)


async def test_what_the_kernel_refuses_is_unavailable_with_its_words(bench: LoopBench) -> None:
    bench.kernel.refusal = lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(Unavailable, match=f"{bench.image}.*No space left"):
        await bench.connector.connect(bench.target, CONFIG)
    assert bench.kernel.calls == [("configure", "loop3")]


async def test_a_device_that_somebody_else_took_first_is_left_to_him(bench: LoopBench) -> None:
    other = bench.image.with_name("other")
    other.write_bytes(b"x" * 512)

    def taken() -> OSError | None:
        if bench.is_bound("loop3"):
            return None
        bench.bind("loop3", file=other)
        return OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    bench.kernel.refusal = taken
    assert (await bench.connector.connect(bench.target, CONFIG)).device.path.endswith("/loop4")
    assert bench.kernel.calls == [("configure", "loop3"), ("configure", "loop4")]


async def test_a_device_that_somebody_detached_at_once_is_unavailable(bench: LoopBench) -> None:
    bench.kernel.at_configure = lambda: bench.release("loop3")
    with pytest.raises(Unavailable, match="somebody has detached"):
        await bench.connector.connect(bench.target, CONFIG)


async def test_a_cancelled_connect_detaches_what_it_attached(bench: LoopBench) -> None:
    # In the worker's thread; the call is cancelled as soon as the loop gets to it.
    loop = asyncio.get_running_loop()
    bench.kernel.at_configure = lambda: loop.call_soon_threadsafe(call.cancel)
    call = asyncio.create_task(bench.connector.connect(bench.target, CONFIG))
    with pytest.raises(asyncio.CancelledError):
        await call
    assert bench.kernel.calls == [("configure", "loop3"), ("clear", "loop3")]
    assert await bench.connector.find(bench.target) is None


async def test_a_node_that_is_another_device_is_unavailable_and_undone(bench: LoopBench) -> None:
    bench.kernel.at_configure = bench.nodes.numbers.clear
    with pytest.raises(Unavailable, match="block device 7:3"):
        await bench.connector.connect(bench.target, CONFIG)
    assert bench.kernel.calls[-1] == ("clear", "loop3")
    assert not bench.is_bound("loop3")


async def test_a_device_of_an_unlinked_file_is_not_used(bench: LoopBench) -> None:
    bench.bind("loop5", text=f"{bench.image} (deleted)")
    bench.image.rename(bench.image.with_suffix(".old"))
    bench.make_image()
    assert (await bench.connector.connect(bench.target, CONFIG)).device.path.endswith("/loop3")
    await bench.connector.disconnect(bench.target)
    assert bench.kernel.calls[-2:] == [("clear", "loop3"), ("clear", "loop5")]


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


async def test_a_disconnect_is_seen(bench: LoopBench) -> None:
    bench.bind("loop5")
    await bench.connector.disconnect(bench.target)
    assert bench.kernel.calls == [("clear", "loop5")]
    assert await bench.connector.find(bench.target) is None
    await bench.connector.disconnect(bench.target)
    assert len(bench.kernel.calls) == 1


async def test_the_device_of_a_deleted_file_is_detached_and_reported(bench: LoopBench) -> None:
    bench.bind("loop5", text=f"{bench.image} (deleted)")
    bench.image.unlink()
    assert "deleted" in await bench.connector.health(bench.target)
    assert await bench.connector.target_of(DeviceNumber(LOOP_MAJOR, 5)) == bench.target
    await bench.connector.disconnect(bench.target)
    assert bench.kernel.calls == [("clear", "loop5")]
    assert await bench.connector.find(bench.target) is None


async def test_a_file_that_is_called_deleted_is_left_alone(bench: LoopBench) -> None:
    other = bench.image.with_name("image (deleted)")
    other.write_bytes(b"x" * 512)
    bench.bind("loop5", file=other)
    await bench.connector.disconnect(bench.target)
    assert bench.kernel.calls == []
    assert not (await bench.connector.connect(FileTarget(str(other)), CONFIG)).created
    assert await bench.connector.target_of(DeviceNumber(LOOP_MAJOR, 5)) == FileTarget(str(other))


async def test_a_mounted_device_stays(bench: LoopBench) -> None:
    bench.bind("loop5")
    bench.write("proc/self/mountinfo", "36 35 7:5 / /mnt rw - ext4 /dev/loop5 rw\n")
    with pytest.raises(FailedPrecondition, match="mounted at /mnt"):
        await bench.connector.disconnect(bench.target)
    assert bench.kernel.calls == []


async def test_a_device_that_somebody_has_open_is_told(bench: LoopBench) -> None:
    bench.bind("loop5")
    bench.kernel.open_nodes.add(f"{bench.host.dev}/loop5")
    with pytest.raises(FailedPrecondition, match=r"loop5 did not go away.*fuser"):
        await bench.connector.disconnect(bench.target)


async def test_a_device_that_is_open_is_waited_for(bench: LoopBench) -> None:
    bench.bind("loop5")
    bench.kernel.open_nodes.add(f"{bench.host.dev}/loop5")
    bench.clock.at_first_pause = lambda: bench.release("loop5")
    await bench.connector.disconnect(bench.target)


async def test_a_number_that_somebody_else_got_meanwhile_is_gone(bench: LoopBench) -> None:
    bench.bind("loop5")
    bench.kernel.open_nodes.add(f"{bench.host.dev}/loop5")
    other = bench.image.with_name("other")
    other.write_bytes(b"x" * 512)

    def bind_other() -> None:
        bench.release("loop5")
        bench.bind("loop5", file=other)

    bench.clock.at_first_pause = bind_other
    await bench.connector.disconnect(bench.target)
    assert bench.is_bound("loop5")


async def test_growth_is_seen(bench: LoopBench) -> None:
    bench.bind("loop5")
    assert (await bench.connector.rescan(bench.target, SIZE)).size == SIZE
    assert bench.kernel.calls == []
    os.truncate(bench.image, 2 * SIZE)
    assert (await bench.connector.rescan(bench.target, 2 * SIZE)).size == 2 * SIZE
    with pytest.raises(DeadlineExceeded, match="did not grow"):
        await bench.connector.rescan(bench.target, 3 * SIZE)


async def test_only_an_attached_file_can_be_rescanned(bench: LoopBench) -> None:
    with pytest.raises(Unavailable, match="no loop device"):
        await bench.connector.rescan(bench.target, SIZE)


async def test_a_device_that_goes_while_it_is_rescanned_is_unavailable(bench: LoopBench) -> None:
    bench.bind("loop5")
    bench.clock.at_first_pause = lambda: bench.release("loop5")
    with pytest.raises(Unavailable, match="was detached"):
        await bench.connector.rescan(bench.target, 2 * SIZE)


async def test_growth_of_an_unknown_size_is_looked_for(bench: LoopBench) -> None:
    bench.bind("loop5")
    os.truncate(bench.image, 2 * SIZE)
    assert (await bench.connector.rescan(bench.target, 0)).size == 2 * SIZE
    assert (await bench.connector.rescan(bench.target, 0)).size == 2 * SIZE
    assert bench.kernel.calls == [("set_capacity", "loop5")] * 2


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
    [finding] = await bench.connector.check()
    assert not finding.ok
    assert "modprobe" in finding.remedy
    bench.write("dev/loop-control", "")
    [finding] = await bench.connector.check()
    assert finding.ok
    assert not finding.remedy


async def test_a_loop_control_that_cannot_be_opened_is_told(bench: LoopBench) -> None:
    os.mkdir(bench.loops.control)
    [finding] = await bench.connector.check()
    assert not finding.ok
    assert "cannot be opened" in finding.message


async def test_what_cannot_be_looked_at_is_not_taken_for_absent(bench: LoopBench) -> None:
    bench.bind("loop5")
    attribute = bench.sysfs("loop5") / "loop/backing_file"
    attribute.unlink()
    attribute.mkdir()
    with pytest.raises(Unavailable, match="cannot be looked at"):
        await bench.connector.find(bench.target)
