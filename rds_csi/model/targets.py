"""Targets: where an array exports a volume, as written into the VolumeContext and read back from it."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from rds_csi.errors import InvalidArgument
from rds_csi.model.names import check_nqn
from rds_csi.model.paths import check_path

# The port that IANA gave to NVMe/TCP I/O controllers (NVMe TCP Transport Specification, section 3.1).
DEFAULT_NVME_PORT = 4420

NQN_KEY = "nqn"
ADDRESS_KEY = "nvmeAddress"
PORT_KEY = "nvmePort"
NAMESPACE_UUID_KEY = "namespaceUuid"
IMAGE_FILE_KEY = "imageFile"

_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*\.?", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def check_address(address: str, field: str) -> str:
    """``address`` itself, when it is an IPv4 or IPv6 address or a host name."""
    if not _is_address(address):
        raise InvalidArgument(f"{field} is neither an IP address nor a host name: {address!r}")
    return address


@lru_cache(256)
def _is_address(text: str) -> bool:
    # Remembered: ten thousand volumes of an array have the same few.
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None
    return True


@dataclass(frozen=True, slots=True)
class NvmeTarget:
    """An NVMe/TCP subsystem: its NQN and its portals, ``addresses`` all on one ``port``.

    ``namespace_uuid`` is "" when the array does not tell it; then NSID 1 is what is looked for.
    """

    nqn: str
    addresses: tuple[str, ...]
    port: int = DEFAULT_NVME_PORT
    namespace_uuid: str = ""

    def __post_init__(self) -> None:
        check_nqn(self.nqn, NQN_KEY)
        if not self.addresses:
            raise InvalidArgument(f"{ADDRESS_KEY} is missing")
        for address in self.addresses:
            check_address(address, ADDRESS_KEY)
        if not 1 <= self.port <= 65535:
            raise InvalidArgument(f"{PORT_KEY} is not a port number: {self.port}")
        if self.namespace_uuid and not _UUID.fullmatch(self.namespace_uuid):
            raise InvalidArgument(f"{NAMESPACE_UUID_KEY} is not a lower-case UUID: {self.namespace_uuid!r}")

    @property
    def identity(self) -> str:
        """What stays the same when the array's address moves."""
        return self.nqn

    def to_context(self) -> dict[str, str]:
        """The VolumeContext entries that ``from_context`` reads back."""
        context = {NQN_KEY: self.nqn, ADDRESS_KEY: ",".join(self.addresses), PORT_KEY: str(self.port)}
        if self.namespace_uuid:
            context[NAMESPACE_UUID_KEY] = self.namespace_uuid
        return context

    @classmethod
    def from_context(cls, context: Mapping[str, str]) -> Self:
        """The target in a VolumeContext; InvalidArgument names the entry that is missing or wrong."""
        port = context.get(PORT_KEY, str(DEFAULT_NVME_PORT))
        if not (port.isascii() and port.isdecimal() and len(port) <= 5):
            raise InvalidArgument(f"{PORT_KEY} is not a port number: {port!r}")
        if NQN_KEY not in context:
            raise InvalidArgument(f"the volume context has no {NQN_KEY!r}")
        addresses = tuple(part for part in context.get(ADDRESS_KEY, "").split(",") if part)
        return cls(context[NQN_KEY], addresses, int(port), context.get(NAMESPACE_UUID_KEY, ""))


@dataclass(frozen=True, slots=True)
class FileTarget:
    """An image file on this machine, reached through a loop device."""

    path: str

    def __post_init__(self) -> None:
        if check_path(self.path, IMAGE_FILE_KEY) != self.path:
            raise InvalidArgument(f"{IMAGE_FILE_KEY} is not a normal path: {self.path!r}")

    @property
    def identity(self) -> str:
        """What tells this target from every other."""
        return self.path

    def to_context(self) -> dict[str, str]:
        """The VolumeContext entries that ``from_context`` reads back."""
        return {IMAGE_FILE_KEY: self.path}

    @classmethod
    def from_context(cls, context: Mapping[str, str]) -> Self:
        """The target in a VolumeContext; InvalidArgument when there is none."""
        if IMAGE_FILE_KEY not in context:
            raise InvalidArgument(f"the volume context has no {IMAGE_FILE_KEY!r}")
        return cls(context[IMAGE_FILE_KEY])


Target = NvmeTarget | FileTarget


def target_from_context(context: Mapping[str, str]) -> Target:
    """The target, of whichever kind, that a VolumeContext describes."""
    if NQN_KEY in context:
        return NvmeTarget.from_context(context)
    if IMAGE_FILE_KEY in context:
        return FileTarget.from_context(context)
    raise InvalidArgument(
        f"the volume context names no target: neither {NQN_KEY!r} nor {IMAGE_FILE_KEY!r}",
        remedy="A static PersistentVolume must carry the volumeAttributes that CreateVolume would have written.",
    )
