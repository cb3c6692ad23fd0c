"""Images exported as NVMe subsystems: one subsystem a volume, its namespace 1 on a loop device over the image.

A loop device rather than the file itself: nvmet gives a file 4096-byte sectors, cannot open one on tmpfs
without buffered I/O, and then fails WRITE ZEROES there. The port is linked last and unlinked first, so that no
host ever sees a half-made export. Whatever a killed process left, ``ensure`` and ``remove`` carry on from it.
"""

import errno
import os
import threading
from collections.abc import Collection

from rds_csi.arrays.configfs import Configfs, check_part
from rds_csi.arrays.images.records import ExportIdentity
from rds_csi.arrays.loops import ImageDevices
from rds_csi.arrays.portal import Port
from rds_csi.errors import FailedPrecondition, Unavailable

# The namespace of every export.
NSID = "1"
# NVMe Base Specification 2.0, Identify Controller: the serial number has 20 bytes.
_SERIAL_LENGTH = 20
# What rmdir(2) says of a host that a subsystem still allows.
_LINKED = frozenset({errno.EBUSY, errno.ENOTEMPTY})


class Exports:
    """The subsystems of this array. Every method is blocking; calls for one volume come one at a time."""

    def __init__(self, configfs: Configfs, devices: ImageDevices, port: Port) -> None:
        self._configfs = configfs
        self._devices = devices
        self._port = port
        # Volumes share hosts: one must not go while another volume is about to allow it.
        self._hosts_guard = threading.Lock()

    def check_there(self) -> None:
        """Unavailable when the kernel has no nvmet."""
        if not self._configfs.exists("subsystems"):
            raise Unavailable(
                "the kernel's NVMe target is not there: configfs has no nvmet",
                remedy="Run `modprobe -a nvmet nvmet-tcp` and `mount -t configfs configfs /sys/kernel/config`.",
            )

    def ensure(self, export: ExportIdentity, image: str, hosts: Collection[str]) -> None:
        """Make sure that the image is exported, with its present size, to exactly these hosts (NQNs)."""
        subsystem = ("subsystems", check_part(export.nqn))
        self._check_ours(export, image)
        if self._configfs.make(*subsystem):
            # By default random: a host would see another subsystem after a reboot.
            self._configfs.write(export.uuid.replace("-", "")[:_SERIAL_LENGTH], *subsystem, "attr_serial")
        if self._configfs.read(*subsystem, "attr_allow_any_host") != "0":
            self._configfs.write("0", *subsystem, "attr_allow_any_host")
        self._ensure_namespace(export, image)
        self._set_hosts(export, hosts)
        self._port.link(export.nqn)

    def admit(self, export: ExportIdentity, image: str, hosts: Collection[str]) -> None:
        """Let in exactly these hosts; those that are shut out lose their connections at once.

        An export that is not there lets nobody in.
        """
        if self._configfs.exists("subsystems", check_part(export.nqn), "allowed_hosts"):
            self._check_ours(export, image)
            self._set_hosts(export, hosts)
            self._port.link(export.nqn)

    def remove(self, export: ExportIdentity, image: str) -> None:
        """Make sure that nothing of the export is left, and see it gone."""
        subsystem = ("subsystems", check_part(export.nqn))
        self._check_ours(export, image)
        self._port.unlink(export.nqn)
        if self._configfs.exists(*subsystem):
            for host in self._configfs.entries(*subsystem, "allowed_hosts"):
                self._disallow((*subsystem, "allowed_hosts"), host)
            for nsid in self._configfs.entries(*subsystem, "namespaces"):
                namespace = (*subsystem, "namespaces", nsid)
                if self._configfs.read(*namespace, "enable") == "1":
                    self._configfs.write("0", *namespace, "enable")
                self._configfs.remove(*namespace)
            self._configfs.remove(*subsystem)
        self._devices.detach(image)

    def faults(self, export: ExportIdentity, image: str) -> list[str]:
        """What keeps hosts from reaching the volume, one sentence each."""
        namespace = ("subsystems", export.nqn, "namespaces", NSID)
        if not self._configfs.exists("subsystems", export.nqn):
            return [f"the subsystem {export.nqn} is not there"]
        faults = []
        foreign = self._foreign(export, image)
        if foreign:
            faults.append(f"{export.nqn} shows {foreign} and not {image}")
        if not self._configfs.exists(*namespace) or self._configfs.read(*namespace, "enable") != "1":
            faults.append(f"namespace {NSID} of {export.nqn} is not enabled")
        if not self._port.is_linked(export.nqn):
            faults.append(f"{export.nqn} is not linked to a port at {self._port.portal.address}")
        return faults

    def _check_ours(self, export: ExportIdentity, image: str) -> None:
        """FailedPrecondition when the subsystem belongs to another array, as that of a copied directory would."""
        foreign = self._foreign(export, image)
        if foreign:
            raise FailedPrecondition(
                f"the subsystem {export.nqn} shows {foreign} and not {image}: another array exports it",
                remedy="Stop the other array and remove its subsystem, or give this array another --nqn-prefix.",
            )

    def _foreign(self, export: ExportIdentity, image: str) -> str:
        """The file of somebody else that the enabled namespace shows, or "". Leftovers over deleted files, and
        namespaces that are not enabled, are nobody's."""
        namespace = ("subsystems", export.nqn, "namespaces", NSID)
        if not self._configfs.exists(*namespace) or self._configfs.read(*namespace, "enable") != "1":
            return ""
        return self._devices.foreign(os.path.basename(self._configfs.read(*namespace, "device_path")), image)

    def _ensure_namespace(self, export: ExportIdentity, image: str) -> None:
        namespace = ("subsystems", export.nqn, "namespaces", NSID)
        self._configfs.make(*namespace)
        # Compared by its last part: the tree of devices may be mounted elsewhere than at the last start.
        current = os.path.basename(self._configfs.read(*namespace, "device_path"))
        device = self._devices.attach(image, guess=current)
        right = current == device and self._configfs.read(*namespace, "device_uuid") == export.uuid
        if self._configfs.read(*namespace, "enable") == "1":
            if right:
                # Tells hosts only if the size has changed.
                self._configfs.write("1", *namespace, "revalidate_size")
                return
            self._configfs.write("0", *namespace, "enable")
        self._configfs.write(self._devices.path(device), *namespace, "device_path")
        self._configfs.write(export.uuid, *namespace, "device_uuid")
        self._configfs.write("1", *namespace, "enable")

    def _set_hosts(self, export: ExportIdentity, hosts: Collection[str]) -> None:
        allowed = ("subsystems", export.nqn, "allowed_hosts")
        for host in hosts:
            self._allow(allowed, check_part(host))
        unwanted = [host for host in self._configfs.entries(*allowed) if host not in hosts]
        if unwanted:
            # The kernel asks allowed_hosts on connect only, so an open connection is cut, and that first: should
            # anything fail here, the repeated call still finds the host and cuts again. Hosts that stay allowed
            # reconnect by themselves; it costs them their reconnect_delay.
            self._port.cut(export.nqn)
        for host in unwanted:
            self._disallow(allowed, host)

    def _allow(self, allowed: tuple[str, ...], host: str) -> None:
        with self._hosts_guard:
            self._configfs.make("hosts", host)
            self._configfs.link(("hosts", host), *allowed, host)

    def _disallow(self, allowed: tuple[str, ...], host: str) -> None:
        with self._hosts_guard:
            self._configfs.unlink(*allowed, host)
            try:
                self._configfs.remove("hosts", host)
            except OSError as error:
                # Another subsystem lets it in.
                if error.errno not in _LINKED:
                    raise
