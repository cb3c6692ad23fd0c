"""What containers of this machine may do."""

from pathlib import Path

# capabilities(7), linux/capability.h
_CAP_SYS_RESOURCE = 24


def has_sys_resource() -> bool:
    """Whether a privileged container has CAP_SYS_RESOURCE: without it ext4 does not grow online (fs/ext4/ioctl.c)."""
    status = Path("/proc/self/status").read_text().splitlines()
    (bounding,) = [int(line.split()[1], 16) for line in status if line.startswith("CapBnd:")]
    return bool(bounding & 1 << _CAP_SYS_RESOURCE)
