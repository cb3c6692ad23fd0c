"""The connection config: what the kernel is told when it connects to an NVMe/TCP subsystem.

Sources: ``nvme-connect(1)``; ``drivers/nvme/host/fabrics.c`` (the option table and its checks) and
``fabrics.h`` (NVMF_DEF_*, NVMF_MIN/MAX_QUEUE_SIZE) of Linux 6.1 and 6.12.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from rds_csi.errors import InvalidArgument

_INT32_MAX = (1 << 31) - 1

# The one parameter that is no number.
HOST_IFACE_KEY = "hostIface"
# linux/if.h: IFNAMSIZ, 16 with the ending zero byte. No comma and no blank: the kernel takes the options as one line.
_IFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its StorageClass key, its field in ConnectionConfig, its unit and its allowed range."""

    key: str
    field: str
    unit: str
    minimum: int
    maximum: int
    meaning: str

    def parse(self, text: str) -> int:
        """The value of a plain decimal integer: no blanks, no sign but ``-1`` where allowed, no leading zeros."""
        digits = text.removeprefix("-")
        plain = digits.isascii() and digits.isdecimal() and len(digits) <= 10 and str(int(digits)) == digits
        if plain and text != "-0" and self.minimum <= int(text) <= self.maximum:
            return int(text)
        raise InvalidArgument(
            f"parameter {self.key!r} has the value {text[:64]!r}: "
            f"an integer from {self.minimum} to {self.maximum} ({self.unit}) is needed"
        )


OPTIONS: tuple[Option, ...] = (
    Option(
        "ctrlLossTmo",
        "ctrl_loss_tmo",
        "seconds",
        -1,
        _INT32_MAX,
        "how long to reconnect; -1 for ever, 0 the kernel's 600",
    ),
    Option("reconnectDelay", "reconnect_delay", "seconds", 1, 3600, "pause between two attempts to reconnect"),
    Option(
        "keepAliveTmo", "keep_alive_tmo", "seconds", 0, 3600, "silence after which a path is dead; 0 the kernel's 5"
    ),
    Option(
        "fastIoFailTmo",
        "fast_io_fail_tmo",
        "seconds",
        -1,
        _INT32_MAX,
        "when waiting I/O fails while reconnecting; -1 never",
    ),
    Option("nrIoQueues", "nr_io_queues", "queues", 0, 1024, "I/O queues; 0 one a CPU"),
    Option("nrWriteQueues", "nr_write_queues", "queues", 0, 1024, "extra queues for writes; 0 none"),
    Option("nrPollQueues", "nr_poll_queues", "queues", 0, 1024, "extra queues for polling; 0 none"),
    Option("queueSize", "queue_size", "entries", 16, 1024, "entries in an I/O queue"),
    Option("hdrDigest", "hdr_digest", "0 or 1", 0, 1, "CRC32C over each PDU header"),
    Option("dataDigest", "data_digest", "0 or 1", 0, 1, "CRC32C over each PDU's data"),
    Option("tos", "tos", "IP type of service", -1, 255, "IP type of service of the connection; -1 the kernel's"),
)
OPTIONS_BY_KEY: Mapping[str, Option] = {option.key: option for option in OPTIONS}


def _check_iface(name: str) -> str:
    """``name`` itself, when it may be the name of a network interface."""
    if not _IFACE.fullmatch(name) or name in (".", ".."):
        raise InvalidArgument(
            f"parameter {HOST_IFACE_KEY!r} has the value {name[:64]!r}: "
            "the name of a network interface is needed, 1 to 15 of the characters A-Z a-z 0-9 _ . -"
        )
    return name


# drivers/nvme/host/fabrics.h: NVMF_DEF_CTRL_LOSS_TMO. Seconds.
KERNEL_CTRL_LOSS_TMO = 600


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """What the kernel is told on connect. Units and ranges: ``OPTIONS``. ``host_iface`` is the name of the network
    interface that the connection has to go through, "" for the one that the node's routes name.

    ``ctrl_loss_tmo`` is −1 by default, so that a filesystem never turns read-only by an outage
    (lessons 6.3); every other default is the kernel's own.
    """

    ctrl_loss_tmo: int = -1
    reconnect_delay: int = 5
    keep_alive_tmo: int = 0
    fast_io_fail_tmo: int = -1
    nr_io_queues: int = 0
    nr_write_queues: int = 0
    nr_poll_queues: int = 0
    queue_size: int = 128
    hdr_digest: int = 0
    data_digest: int = 0
    tos: int = -1
    host_iface: str = ""

    def __post_init__(self) -> None:
        if self.host_iface:
            _check_iface(self.host_iface)
        for option in OPTIONS:
            value = getattr(self, option.field)
            if not option.minimum <= value <= option.maximum:
                raise InvalidArgument(
                    f"{option.key} is {value}: {option.minimum} to {option.maximum} ({option.unit}) is allowed"
                )
        # 0 leaves it to the kernel.
        loss = self.ctrl_loss_tmo or KERNEL_CTRL_LOSS_TMO
        if 0 < loss < self.reconnect_delay:
            raise InvalidArgument(
                f"reconnectDelay ({self.reconnect_delay} s) is above ctrlLossTmo ({loss} s): "
                "the kernel would give up before its first attempt"
            )
        if 0 < loss < self.fast_io_fail_tmo:
            raise InvalidArgument(
                f"fastIoFailTmo ({self.fast_io_fail_tmo} s) is above ctrlLossTmo ({loss} s): it would never take effect"
            )

    @classmethod
    def from_context(cls, context: Mapping[str, str]) -> Self:
        """The config in StorageClass parameters or a VolumeContext; what is not named keeps its default."""
        return cls(**cls._parse(context))

    @classmethod
    def check_values(cls, context: Mapping[str, str]) -> None:
        """InvalidArgument for a value that is wrong by itself, whatever goes with it."""
        cls._parse(context)

    @staticmethod
    def _parse(context: Mapping[str, str]) -> dict[str, Any]:
        numbers = {option.field: option.parse(context[option.key]) for option in OPTIONS if option.key in context}
        iface = _check_iface(context[HOST_IFACE_KEY]) if HOST_IFACE_KEY in context else ""
        return {**numbers, "host_iface": iface}

    def to_context(self) -> dict[str, str]:
        """The VolumeContext entries that ``from_context`` reads back: only what differs from the defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        context = {
            option.key: str(getattr(self, option.field))
            for option in OPTIONS
            if getattr(self, option.field) != defaults[option.field]
        }
        return {**context, HOST_IFACE_KEY: self.host_iface} if self.host_iface else context


def nearest(name: str, known: list[str]) -> str:
    """A hint `` (did you mean …?)`` for a misspelt ``name``, or "" when nothing is near."""
    lowered = {item.lower(): item for item in known}
    found = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return f" (did you mean {lowered[found[0]]!r}?)" if found else ""
