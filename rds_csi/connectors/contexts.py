"""The VolumeContext entries of a target and its connection config: one way to write and read them."""

from collections.abc import Mapping
from typing import TypeVar

from rds_csi.errors import InvalidArgument
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import FileTarget, NvmeTarget, Target, target_from_context

T = TypeVar("T", bound=Target)

_WORDS: Mapping[type, tuple[str, str]] = {
    NvmeTarget: ("an NVMe subsystem", "nvme-cli"),
    FileTarget: ("an image file on this machine", "loop"),
}


def expect(target: Target, kind: type[T], connector: str) -> T:
    """``target`` itself, when it is of the ``kind`` that the connector can reach; InvalidArgument otherwise."""
    if isinstance(target, kind):
        return target
    what, fitting = _WORDS[type(target)]
    raise InvalidArgument(
        f"the connector {connector!r} cannot reach {what}: the array and the connector do not fit together",
        remedy=f"Start the driver with --connector {fitting} for this array.",
    )


def write_context(target: Target, config: ConnectionConfig) -> dict[str, str]:
    """The VolumeContext entries that ``read_context`` reads back."""
    return {**target.to_context(), **config.to_context()}


def read_context(context: Mapping[str, str]) -> tuple[Target, ConnectionConfig]:
    """The target and the config in a VolumeContext; InvalidArgument names the entry that is wrong."""
    return target_from_context(context), ConnectionConfig.from_context(context)
