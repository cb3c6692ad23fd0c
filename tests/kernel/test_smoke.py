"""The lane itself works: a volume's way through bare tools, on this kernel with this setting."""

import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.kernel.conftest import MakeTarget
from tests.support.nvmet_target import MIB, NvmetTarget
from tests.support.waiting import wait_until

TOOL_SECONDS = 60.0
PAYLOAD = os.urandom(8 * MIB)


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TOOL_SECONDS)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"


def connect(target: NvmetTarget) -> None:
    # Short times: an outage is noticed at once and ended within a second.
    times = ("--ctrl-loss-tmo=600", "--reconnect-delay=1", "--keep-alive-tmo=5")
    portal = ("--transport=tcp", f"--traddr={target.address}", f"--trsvcid={target.port}")
    run("nvme", "connect", *portal, f"--nqn={target.nqn}", *times)


def controller_of(target: NvmetTarget) -> Path:
    (found,) = (
        path
        for path in Path("/sys/class/nvme").iterdir()
        if re.fullmatch(r"nvme\d+", path.name) and (path / "subsysnqn").read_text().strip() == target.nqn
    )
    return found


def device_of(target: NvmetTarget) -> Path:
    found: list[Path] = []

    def appears() -> bool:
        found[:] = [
            Path("/dev", path.name)
            for path in Path("/sys/block").glob("nvme*")
            if (path / "wwid").is_file()
            and (path / "wwid").read_text().strip() == f"uuid.{target.uuid}"
            and Path("/dev", path.name).is_block_device()
        ]
        return bool(found)

    wait_until(appears, f"a block device with the UUID {target.uuid}")
    return found[0]


def state_is(controller: Path, state: str) -> bool:
    return (controller / "state").read_text().strip() == state


def test_the_setting_is_the_one_that_was_asked_for(multipath: bool, kernel_release: tuple[int, int]) -> None:
    assert multipath == ("nvme_core.multipath=N" not in Path("/proc/cmdline").read_text())
    assert kernel_release in {(6, 1), (6, 12)}


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_a_file_survives_an_outage_of_its_target(nvmet_target: MakeTarget, scratch: Path, fs_type: str) -> None:
    target = nvmet_target()
    connect(target)
    controller, device = controller_of(target), device_of(target)
    run(f"mkfs.{fs_type}", "-q", str(device))
    run("mount", "-t", fs_type, str(device), str(mount_point := scratch / "mnt"), "-o", "X-mount.mkdir")
    with (mount_point / "file").open("wb") as stream:
        stream.write(PAYLOAD)
        os.fsync(stream.fileno())

    target.break_link()
    wait_until(lambda: state_is(controller, "connecting"), "the controller is connecting")
    target.restore()
    wait_until(lambda: state_is(controller, "live"), "the controller is live again")

    run("umount", str(mount_point))
    run("mount", "-t", fs_type, str(device), str(mount_point))
    assert hashlib.sha256((mount_point / "file").read_bytes()).digest() == hashlib.sha256(PAYLOAD).digest()
    run("umount", str(mount_point))
    run("nvme", "disconnect", f"--nqn={target.nqn}")
    wait_until(lambda: not controller.exists(), "the controller is gone")


def test_a_host_sees_its_namespace_grow(nvmet_target: MakeTarget) -> None:
    target = nvmet_target(size=64 * MIB)
    connect(target)
    size = Path("/sys/block", device_of(target).name, "size")

    target.grow(96 * MIB)

    wait_until(lambda: int(size.read_text()) * 512 == 96 * MIB, "the host sees 96 MiB")
    run("nvme", "disconnect", f"--nqn={target.nqn}")
