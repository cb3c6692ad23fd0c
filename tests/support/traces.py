"""What a driver may leave on this machine: mounts, loop devices, files. Tests assert that there is nothing."""

from pathlib import Path


def mounts_below(directory: Path) -> list[str]:
    """Mount points below a directory (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        points = [line.split()[4] for line in stream]
    return [point for point in points if point.startswith(f"{directory}/")]


def loops_below(directory: Path) -> list[str]:
    """Loop devices whose backing file lies below a directory (sysfs-block-loop)."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = backing.read_text(encoding="utf-8", errors="surrogateescape").strip()
        except OSError:
            # Detached between the listing and the reading.
            continue
        if file.startswith(f"{directory}/"):
            found.append(f"{backing.parts[3]} on {file}")
    return found


def files_below(*directories: Path) -> list[str]:
    """Images, records and temporary files; lock files and directories are no traces."""
    return [
        str(path)
        for directory in directories
        for path in directory.rglob("*")
        if path.is_file() and "lock" not in path.name
    ]


def assert_no_traces(directory: Path) -> None:
    """Nothing of a driver that worked below ``directory`` is left."""
    assert mounts_below(directory) == []
    assert loops_below(directory) == []
    assert files_below(directory / "array", directory / "state") == []
