"""Loop devices on made-up trees: what is left to a connector's and an array's own tests is not repeated here."""

import errno
import os
from pathlib import Path

import pytest

from rds_csi.arrays.loops import LoopImageDevices
from rds_csi.errors import Unavailable
from rds_csi.loopdev.devices import LoopDevices
from rds_csi.loopdev.ioctls import LoopIoctls
from tests.support.loop_bench import SIZE, LoopBench, MadeUpKernel


@pytest.fixture
def bench(tmp_path: Path) -> LoopBench:
    return LoopBench(tmp_path)


class SlowNodes(MadeUpKernel):
    """Nodes below /dev are made by somebody else, later or never."""

    def get_free(self, control: str) -> int:
        number = super().get_free(control)
        Path(self._bench.host.dev, f"loop{number}").unlink()
        return number


def test_a_node_that_comes_late_is_waited_for(bench: LoopBench) -> None:
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        bench.write("dev/loop3", "")

    loops = LoopDevices(bench.host, SlowNodes(bench), pause)
    assert loops.attach(str(bench.image), direct_io=False).name == "loop3"
    assert len(pauses) == 1


def test_a_node_that_never_comes_is_unavailable_and_nothing_is_bound(bench: LoopBench) -> None:
    pauses: list[float] = []
    kernel = SlowNodes(bench)
    with pytest.raises(Unavailable, match="loop3 did not appear"):
        LoopDevices(bench.host, kernel, pauses.append).attach(str(bench.image), direct_io=False)
    assert kernel.calls == []
    assert 0.5 < sum(pauses) < 5


def test_when_others_take_every_device_it_ends(bench: LoopBench) -> None:
    bench.kernel.refusal = lambda: OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    with pytest.raises(Unavailable, match="others took"):
        bench.loops.attach(str(bench.image), direct_io=False)


def test_flush_reaches_the_devices_of_the_file_and_no_other(bench: LoopBench) -> None:
    other = bench.image.with_name("other")
    other.write_bytes(b"x" * 512)
    bench.bind("loop5")
    bench.bind("loop6", file=other)
    bench.bind("loop7", file=other, text=f"{bench.image} (deleted)")
    bench.loops.flush(str(bench.image))
    assert bench.kernel.calls == [("flush", "loop5")]


def test_a_device_without_a_file_is_not_bound(bench: LoopBench) -> None:
    (bench.bind("loop5") / "loop/backing_file").write_text("")
    assert bench.loops.read("loop5") is None


def test_without_sysfs_nothing_is_bound(bench: LoopBench) -> None:
    bench.sysfs("").rmdir()
    assert bench.loops.bound(str(bench.image)).all == ()


def test_an_exported_image_gets_one_device_without_direct_io(bench: LoopBench) -> None:
    devices, image = LoopImageDevices(bench.loops), str(bench.image)
    assert devices.attach(image, guess="(null)") == "loop3"
    assert devices.attach(image) == "loop3"
    assert bench.kernel.direct_io == {devices.path("loop3"): False}


def test_the_guessed_device_is_used_if_it_is_over_the_image(bench: LoopBench) -> None:
    devices = LoopImageDevices(bench.loops)
    bench.bind("loop5")
    bench.bind("loop6")
    assert devices.attach(str(bench.image), guess="loop6") == "loop6"
    assert devices.attach(str(bench.image), guess="loop7") == "loop5"


def test_a_device_over_an_image_that_was_unlinked_is_not_exported_again(bench: LoopBench) -> None:
    devices = LoopImageDevices(bench.loops)
    bench.bind("loop5", text=f"{bench.image} (deleted)")
    bench.image.rename(bench.image.with_suffix(".old"))
    bench.make_image()
    assert devices.attach(str(bench.image), guess="loop5") == "loop3"
    devices.detach(str(bench.image))
    assert not bench.is_bound("loop3")
    assert not bench.is_bound("loop5")


def test_an_exported_image_that_grew_has_a_device_as_large(bench: LoopBench) -> None:
    devices, image = LoopImageDevices(bench.loops), str(bench.image)
    name = devices.attach(image)
    os.truncate(image, 2 * SIZE)
    assert devices.attach(image, guess=name) == name
    device = bench.loops.read(name)
    assert device is not None
    assert device.size == 2 * SIZE
    assert bench.kernel.calls.count(("set_capacity", name)) == 1


def test_a_missing_node_has_no_file_behind_it(tmp_path: Path) -> None:
    assert LoopIoctls().inode(str(tmp_path / "loop3")) is None
    LoopIoctls().flush(str(tmp_path / "loop3"))


def test_a_node_that_is_no_loop_device_is_refused(tmp_path: Path) -> None:
    node = tmp_path / "loop3"
    node.write_bytes(b"")
    ioctls = LoopIoctls()
    for step in (ioctls.inode, ioctls.set_capacity, ioctls.clear, ioctls.get_free):
        with pytest.raises(OSError, match="Inappropriate ioctl"):
            step(str(node))
