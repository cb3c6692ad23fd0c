"""Which programs have something open below a mount, as far as /proc shows it to this container."""

import os
from collections.abc import Iterator

# An error message names a few.
_NAMED = 3


def who_holds(proc: str, path: str) -> str:
    """Blocking. ``"pid 12 (postgres), pid 13 (cat)"``, or "" when nobody is seen: a container without the host's
    pid namespace sees only itself. Reads links only, so that nothing of the volume itself is touched."""
    processes = [os.path.join(proc, pid) for pid in sorted(filter(str.isdigit, _list(proc)), key=int)]
    found = [
        f"pid {os.path.basename(process)} ({_name(process)})"
        for process in processes
        if any(link == path or link.startswith(path + "/") for link in _links(process))
    ]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more


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
