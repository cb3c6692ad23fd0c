"""The doctor on the kernel: release, NVMe/TCP modules, native multipath. Looks only, loads nothing. Blocking."""

import os
from collections.abc import Iterable, Sequence

from rds_csi.commands.doctor.findings import Result, missing, ok, warning
from rds_csi.model.host import HostPaths
from rds_csi.nvme.sysfs import NvmeSysfs

# nvme-tcp needs nvme-fabrics, and modprobe brings both.
_MODULES = ("nvme_fabrics", "nvme_tcp")
_LOAD = "modprobe nvme-tcp, and load it at every start: echo nvme-tcp > /etc/modules-load.d/nvme-tcp.conf"
_NO_HOST = "In a container, mount the host's {0} where --host-root expects it."
# What depmod(8) writes below /lib/modules/RELEASE: modules as files, and those inside the kernel.
_LISTS = {"modules.dep": "file", "modules.builtin": "built in"}


def look_at_kernel(host: HostPaths, *, needs_nvme: bool) -> Sequence[Result]:
    """``needs_nvme``: whether the connector cannot do without the NVMe modules."""
    release = _read(f"{host.proc}/sys/kernel/osrelease")
    if not release:
        return [missing("kernel", f"{host.proc}/sys/kernel/osrelease cannot be read", _NO_HOST.format("/proc"))]
    results = [ok("kernel", f"Linux {release}")]
    if needs_nvme:
        results += [_module(host, release, name) for name in _MODULES]
        results += _fabrics_device(host)
        results.append(_multipath(host))
    return results


def look_at_loop_control(host: HostPaths) -> Result:
    """Whether loop devices can be had; the node is not opened, because that would load the module."""
    path = f"{host.dev}/loop-control"
    if not os.path.exists(path):
        return missing("loop devices", f"{path} is missing", f"modprobe loop. {_NO_HOST.format('/dev')}")
    if not os.access(path, os.R_OK | os.W_OK):
        return missing("loop devices", f"{path} cannot be opened by this user", "Run as root.")
    return ok("loop devices", f"{path} is there")


def _module(host: HostPaths, release: str, name: str) -> Result:
    if os.path.isdir(f"{host.sys}/module/{name}"):
        return ok(name, "loaded")
    directory = next(iter(_module_directories(host, release)), "")
    found = {kind: path for listing, kind in _LISTS.items() if (path := _listed(f"{directory}/{listing}", name))}
    if "built in" in found:
        return ok(name, "built into the kernel")
    if "file" in found:
        return warning(
            name, f"not loaded; the driver will try to load {os.path.basename(found['file'])} from {directory}", _LOAD
        )
    if directory:
        return missing(
            name,
            f"neither loaded nor among the modules of {release} in {directory}",
            f"Install the modules of this kernel (Ubuntu: linux-modules-extra-{release}), "
            "or boot one with CONFIG_NVME_TCP.",
        )
    return missing(
        name,
        f"not loaded, and there are no modules of {release} below {host.below('lib/modules')}",
        "Boot a kernel with CONFIG_NVME_TCP and install its modules. "
        "In a container that does not see them: modprobe nvme-tcp on the host.",
    )


def _fabrics_device(host: HostPaths) -> Sequence[Result]:
    """The node comes with its module: nothing is told while that is not loaded."""
    path = f"{host.dev}/nvme-fabrics"
    if os.path.exists(path):
        return [ok("nvme-fabrics", f"{path} is there")]
    if os.path.isdir(f"{host.sys}/module/nvme_fabrics"):
        return [missing("nvme-fabrics", f"{path} is missing, though its module is loaded", _NO_HOST.format("/dev"))]
    return []


def _multipath(host: HostPaths) -> Result:
    """Either way volumes work; which of them it is explains what is seen in /dev."""
    module = f"{host.sys}/module/nvme_core"
    if not os.path.isdir(module):
        return ok("native multipath", "not known before nvme_core is loaded")
    if NvmeSysfs(host).native_multipath():
        return ok("native multipath", "on: all portals of a volume are connected, and make one device")
    message = "off: of several portals of a volume one is connected"
    if not os.path.exists(f"{module}/parameters/multipath"):
        message += " (this kernel is built without CONFIG_NVME_MULTIPATH)"
    return ok("native multipath", message)


def _module_directories(host: HostPaths, release: str) -> Iterable[str]:
    for parent in ("lib", "usr/lib"):
        directory = host.below(parent, "modules", release)
        if os.path.isdir(directory):
            yield directory


def _listed(path: str, name: str) -> str:
    """The module's path in a list of depmod's, whose lines read ``kernel/…/nvme-tcp.ko.xz: …``; "" when it has none."""
    for line in _read(path).splitlines():
        entry = line.partition(":")[0].strip()
        if os.path.basename(entry).partition(".ko")[0].replace("-", "_") == name:
            return entry
    return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""
