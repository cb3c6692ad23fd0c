"""Which programs have something open below a mount, or a device open for writing, as far as /proc shows it to this
container."""

import os
from collections.abc import Callable, Iterator

from rds_csi.model.devices import Device, DeviceNumber

# An error message names a few.
_NAMED = 3


def who_holds(proc: str, path: str) -> str:
    """Blocking. ``"pid 12 (postgres), pid 13 (cat)"``, or "" when nobody is seen: a container without the host's
    pid namespace sees only itself. Reads links only, so that nothing of the volume itself is touched."""
    return _named(proc, lambda process: any(link == path or link.startswith(path + "/") for link in _links(process)))


def who_writes(proc: str, device: Device) -> str:
    """Blocking. The processes that have ``device`` open for writing, as ``who_holds`` names them.

    Only for writing: udev opens every new device for a look.
    """
    return _named(proc, lambda process: _writes(process, device))


def _named(proc: str, chosen: Callable[[str], bool]) -> str:
    processes = [os.path.join(proc, pid) for pid in sorted(filter(str.isdigit, _list(proc)), key=int)]
    found = [f"pid {os.path.basename(process)} ({_name(process)})" for process in processes if chosen(process)]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more


def _writes(process: str, device: Device) -> bool:
    name = os.path.basename(device.path)
    for descriptor in _list(os.path.join(process, "fd")):
        link = os.path.join(process, "fd", descriptor)
        try:
            # By the name first: stat(2) of a file on a dead server would not come back.
            if os.path.basename(os.readlink(link)) != name or DeviceNumber.of(os.stat(link).st_rdev) != device.number:
                continue
            if _flags(os.path.join(process, "fdinfo", descriptor)) & os.O_ACCMODE != os.O_RDONLY:
                return True
        except OSError:
            # The program has ended or closed it.
            continue
    return False


def _flags(path: str) -> int:
    """The flags of open(2), which proc_pid_fdinfo(5) gives in octal."""
    with open(path, encoding="ascii", errors="replace") as stream:
        return next((int(line.split()[1], 8) for line in stream if line.startswith("flags:")), os.O_RDONLY)


def _links(process: str) -> Iterator[str]:
    descriptors = os.path.join(process, "fd")
    for path in (
        os.path.join(process, "cwd"),
        os.path.join(process, "root"),
        *(os.path.join(descriptors, name) for name in _list(descriptors)),
    ):
        try:
            yield os.readlink(path)
        except OSError:
            # The program has ended or closed it.
            continue


def _name(process: str) -> str:
    try:
        with open(os.path.join(process, "comm"), encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return "?"


def _list(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
