"""What there is on a machine that only tests use: compared before and after, it tells what was left behind."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import wait_until

NVMET = Path("/sys/kernel/config/nvmet")
# Where the lane's machine shows the upper layer of its root directory: every file that was written anywhere.
WRITTEN_FILES = Path("/run/overlay/upper")

# What the kernel and dying children take down on their own, after the last call has answered.
SETTLE_SECONDS = 10.0

# What no driver, but the tests' own tools keep: pytest's directories, libmount's and libblkid's notes.
_TOOLS_OWN = ("/tmp/pytest-of-", "/run/mount/", "/run/blkid/", "/run/results/", "/run/overlay/", "/run/vm-job")


@dataclass(frozen=True, slots=True)
class MachineState:
    """Everything that a driver or a test may leave, as lines to be read by a person."""

    lines: frozenset[str]

    @classmethod
    def now(cls) -> "MachineState":
        """What there is at this moment."""
        kinds = {
            "NVMe session": _sessions(),
            "mount": _mounts(),
            "loop device": _loop_devices(),
            "configfs entry": _configfs_entries(),
            "file": _files(),
            "process": _drivers(),
        }
        return cls(frozenset(f"{kind} {item}" for kind, items in kinds.items() for item in items))

    def left_since(self, before: "MachineState") -> list[str]:
        """What was not there before."""
        return sorted(self.lines - before.lines)


def assert_nothing_left(before: MachineState) -> None:
    """All that was not there before goes away within SETTLE_SECONDS."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not MachineState.now().left_since(before), "all is gone", seconds=SETTLE_SECONDS)
    left = MachineState.now().left_since(before)
    assert not left, "\n".join(["left behind:", *left])


def _sessions() -> Iterator[str]:
    for subsystem in Path("/sys/class/nvme-subsystem").glob("nvme-subsys*"):
        yield f"{subsystem.name} {_text(subsystem / 'subsysnqn')}"


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        words = line.split()
        # A second mount at the same place has a mount id of its own.
        yield f"{words[0]} at {words[4]}"


def _loop_devices() -> Iterator[str]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        yield f"{backing.parts[3]} on {_text(backing)}"


def _configfs_entries() -> Iterator[str]:
    for pattern in ("subsystems/*", "ports/*", "ports/*/subsystems/*", "hosts/*"):
        yield from (str(path) for path in NVMET.glob(pattern))


def _files() -> Iterator[str]:
    # An overlay's upper layer holds what was removed as a character device, and every parent of what was written.
    for root in (WRITTEN_FILES, Path("/run")):
        for path in root.rglob("*"):
            seen = "/" + str(path.relative_to(WRITTEN_FILES)) if root == WRITTEN_FILES else str(path)
            if not seen.startswith(_TOOLS_OWN) and (path.is_file() or path.is_socket() or path.is_fifo()):
                yield seen


def _drivers() -> Iterator[str]:
    """By their arguments, not their numbers: one that was killed and started again is the same."""
    found: Counter[str] = Counter()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_bytes().split(b"\x00")
        except OSError:
            continue
        if b"rds_csi" in argv:
            found[b" ".join(argv).decode(errors="replace").strip()] += 1
    for arguments, count in found.items():
        yield from (f"{arguments} ({number})" for number in range(1, count + 1))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:
        # Gone between the listing and the reading.
        return "(going)"
