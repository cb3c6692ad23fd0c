"""The node's container: root with every right, and the image's own tools on the host's devices."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.image.archive import Archive
from tests.image.container import Container, Place, node_place, tmpfs
from tests.image.programs import started_programs
from tests.support.driver import START_SECONDS
from tests.support.sanity import RUNNABLE_SPECS, SANITY_SECONDS, run_sanity
from tests.support.traces import loops_below, mounts_below
from tests.support.waiting import wait_until

# What a pod of the Go driver for the same array takes on a node, in MB: driver, registrar, livenessprobe.
OTHERS = (33, 15, 12)

# What each program is asked, to show that it runs; mount and umount alone print how they are called.
VERSION_FLAGS = {
    "nvme": "version",
    "mkfs.ext4": "-V",
    "e2fsck": "-V",
    "mkfs.xfs": "-V",
    "xfs_growfs": "-V",
    "xfs_repair": "-V",
    "fsck.ext4": "-V",
}
# For people on the node, beside what the driver starts.
FOR_PEOPLE = frozenset({"cryptsetup", "losetup", "lsblk", "xfs_repair", "fsck.ext4"})


@pytest.fixture
def node(image: Archive, root: Path, home: Path) -> Iterator[Container]:
    """A node that serves volumes of image files, ready."""
    (home / "array").mkdir()
    flags = [f"--endpoint=unix://{home}/csi.sock", f"--state-dir={home}/state", f"--array=local://{home}/array"]
    with Container(image, root, home / "log", node_place(home), "node", *flags) as container:
        wait_until(lambda: container.answers(home / "csi.sock"), "it is ready", seconds=START_SECONDS)
        yield container


def test_sigterm_ends_it_well(node: Container) -> None:
    assert node.terminate() == os.EX_OK, node.text()
    assert "stopped" in node.text()


def test_it_takes_less_memory_than_the_three_programs_of_others(node: Container, measured: list[str]) -> None:
    # hostPID: what runc started is the driver itself.
    rollup = Path(f"/proc/{node.pid}/smaps_rollup").read_text()
    rss, pss = (int(re.findall(rf"^{name}: +(\d+) kB", rollup, re.MULTILINE)[0]) / 1024 for name in ("Rss", "Pss"))
    others = " + ".join(map(str, OTHERS))
    measured.append(
        f"memory of the node's only container: {rss:.0f} MB resident, {pss:.0f} MB proportional;"
        f" driver, registrar and livenessprobe in Go: {others} = {sum(OTHERS)} MB"
    )
    assert pss < sum(OTHERS)


@pytest.mark.parametrize("program", sorted(started_programs() | FOR_PEOPLE))
def test_every_program_that_is_started_is_there_and_runs(image: Archive, root: Path, home: Path, program: str) -> None:
    inside = Place(0, mounts=(tmpfs("/tmp"),))
    code = f"import subprocess, sys; sys.exit(subprocess.run({[program, *_ask(program)]!r}).returncode)"
    with Container(image, root, home / "log", inside, entrypoint=("/opt/rds-csi/bin/python3", "-c", code)) as ran:
        status = ran.wait()
    # resize2fs has no question to it: it says how it is called, with a status of its own.
    assert status == (1 if program == "resize2fs" else 0), ran.text()
    assert ran.text().strip()


def _ask(program: str) -> list[str]:
    return [] if program == "resize2fs" else [VERSION_FLAGS.get(program, "--version")]


def test_what_is_started_is_known() -> None:
    # Without these the search through the code has gone blind.
    assert {"mount", "umount", "blkid", "wipefs", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs"} <= started_programs()
    assert {"nvme", "dd", "modprobe", "e2fsck", "resize2fs", "xfs_growfs", "btrfs"} <= started_programs()


def test_no_program_or_library_lacks_a_library(image: Archive, root: Path, home: Path) -> None:
    with Container(image, root, home / "log", Place(0), entrypoint=("/opt/rds-csi/bin/python3", "-c", LINKED)) as ran:
        assert ran.wait() == 0, ran.text()
    looked, lacking = json.loads(ran.text())
    assert lacking == []
    assert looked > 200


# Runs inside: the dynamic loader lists what each ELF file needs (ld.so(8)).
LINKED = """
import glob, json, os, subprocess
loader = (glob.glob("/lib64/ld-linux*") + glob.glob("/lib/ld-linux*"))[0]
looked, lacking = 0, []
for top in ("/usr", "/opt"):
    for directory, _, names in os.walk(top):
        for path in (os.path.join(directory, name) for name in names):
            if os.path.islink(path) or open(path, "rb").read(4) != b"\\x7fELF":
                continue
            said = subprocess.run([loader, "--list", path], capture_output=True, text=True)
            looked += 1
            if "not found" in said.stdout + said.stderr:
                lacking.append([path, said.stdout + said.stderr])
print(json.dumps([looked, lacking]))
"""


@pytest.mark.parametrize(
    ("connector", "of_the_other", "says"),
    [("nvme-cli", "dd", ("nvme", "nvme version 2.")), ("fabrics", "nvme", ("dd", "(coreutils)"))],
)
def test_the_doctor_finds_every_tool(
    image: Archive, root: Path, home: Path, connector: str, of_the_other: str, says: tuple[str, str]
) -> None:
    (home / "state").mkdir()
    arguments = ("doctor", "--connector", connector, "--state-dir", f"{home}/state", "--output", "json")
    with Container(image, root, home / "log", node_place(home), *arguments) as doctor:
        assert doctor.wait() in (0, 1), doctor.text()
    found: list[dict[str, Any]] = json.loads(doctor.text())
    tools = {item["subject"]: item for item in found if item["subject"] in started_programs()}
    assert [item for item in tools.values() if item["state"] != "ok"] == []
    assert set(tools) == started_programs() - {of_the_other}
    tool, message = says
    assert message in tools[tool]["message"]


def test_the_whole_life_of_a_volume(image: Archive, root: Path, home: Path) -> None:
    # As the first process: the demo starts the server as a child of its own.
    place = replace(node_place(home, own_processes=True), environment={"TMPDIR": str(home)})
    with Container(image, root, home / "log", place, "demo") as demo:
        assert demo.wait(300) == 0, demo.text()


@pytest.mark.timeout(SANITY_SECONDS + 120)
def test_csi_sanity_passes_on_real_mounts(
    image: Archive, root: Path, home: Path, csi_sanity: str, measured: list[str]
) -> None:
    (home / "array").mkdir()
    flags = [f"--endpoint=unix://{home}/csi.sock", f"--state-dir={home}/state", f"--array=local://{home}/array"]
    flags += ["--node-id=node-1", "--max-volumes-per-node=4"]
    with Container(image, root, home / "log", node_place(home), "all", *flags) as container:
        wait_until(lambda: container.answers(home / "csi.sock"), "it is ready", seconds=START_SECONDS)
        report = run_sanity(csi_sanity, home / "csi.sock", home, access_type="mount")
        assert container.terminate() == os.EX_OK
    assert report.failed == (), report.output
    assert (len(report.passed), report.skipped) == (RUNNABLE_SPECS, ())
    assert (mounts_below(home), loops_below(home)) == ([], [])
    measured.append(f"csi-sanity against the image, on real mounts: {len(report.passed)} passed")
