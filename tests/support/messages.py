"""Hypothesis strategies for CSI requests: whole of nonsense, or valid but for something."""

import dataclasses
from collections import defaultdict
from typing import Any

import betterproto
from hypothesis import strategies as st

from rds_csi.csi import v1 as csi

NAMES = ("vol-1", "vol-2", "vol-3", "Vol 3", "snap-1", "snap-2", "group-1", "x" * 128)
PATHS = ("/fuzz/staging/1", "/fuzz/staging/2", "/fuzz/pod/1", "/fuzz/pod/2")
NODE = "fuzz-node"

# What people, sidecars and attackers put into strings.
NASTY = (
    "",
    " ",
    "/",
    "//",
    "..",
    "/a/../../etc/shadow",
    "relative/path",
    "/fuzz/\nnewline",
    "/fuzz/\x00nul",
    "-rf",
    "--help",
    "$(reboot)",
    "a;b",
    "é" * 64,
    "x" * 129,
    "x" * 5000,
    "\u202ertl",
    "nqn.2026-01.io.rds-csi:",
    "%s%n",
    "9" * 40,
)
SIZES = (0, 1, -1, 1 << 20, (1 << 20) + 1, 300 << 20, 1 << 30, 1 << 40, 1 << 62, (1 << 63) - 1, -(1 << 63))
PARAMETERS = (
    "ctrlLossTmo",
    "reconnectDelay",
    "provisioning",
    "pool",
    "mkfsOptions",
    "csi.storage.k8s.io/fstype",
    "nope",
)
VALUES = ("5", "-1", "thin", "thick", "ext4", "xfs", "vfat", "", "1e9", "-O", "/dev/sda")

plain = st.sampled_from(NAMES + PATHS + (NODE,))
strings = st.one_of(plain, plain, st.sampled_from(NASTY), st.text(max_size=40))
integers = st.one_of(st.sampled_from(SIZES), st.integers(-(1 << 63), (1 << 63) - 1))
small_integers = st.one_of(st.integers(-3, 5), st.integers(-(1 << 31), (1 << 31) - 1))
maps = st.dictionaries(
    st.one_of(st.sampled_from(PARAMETERS), strings), st.one_of(st.sampled_from(VALUES), strings), max_size=3
)


def encodable(text: str) -> bool:
    """Whether protobuf can carry the text: surrogates have no UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _capabilities() -> st.SearchStrategy[csi.VolumeCapability]:
    modes = st.sampled_from(list(csi.VolumeCapabilityAccessModeMode))
    usual = st.just(csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER)

    def build(mode: Any, block: bool, fs_type: str, flags: list[str]) -> csi.VolumeCapability:
        access_mode = csi.VolumeCapabilityAccessMode(mode=mode)
        if block:
            return csi.VolumeCapability(block=csi.VolumeCapabilityBlockVolume(), access_mode=access_mode)
        mount = csi.VolumeCapabilityMountVolume(fs_type=fs_type, mount_flags=flags)
        return csi.VolumeCapability(mount=mount, access_mode=access_mode)

    return st.builds(
        build,
        st.one_of(usual, usual, modes),
        st.booleans(),
        st.sampled_from(("", "ext4", "xfs", "btrfs", "vfat", "../ext4")),
        st.lists(st.sampled_from(("ro", "noatime", "loop", "bind", "a,b", "")), max_size=2),
    )


def messages(message: type[betterproto.Message]) -> st.SearchStrategy[betterproto.Message]:
    """Messages of the type with every field drawn; of a oneof at most one member."""
    if message is csi.VolumeCapability:
        return st.one_of(_capabilities(), _capabilities(), st.builds(csi.VolumeCapability))
    metadata: Any = message()._betterproto  # type: ignore[arg-type]  # betterproto's classproperty is untyped
    groups: dict[str, list[str]] = defaultdict(list)
    alone: dict[str, st.SearchStrategy[Any]] = {}
    drawn: dict[str, st.SearchStrategy[Any]] = {}
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(message)  # type: ignore[arg-type]  # subclasses are dataclasses
    for field in fields:
        meta = betterproto.FieldMetadata.get(field)
        strategy = _field(metadata, field.name, meta)
        drawn[field.name] = strategy
        if meta.group:
            groups[meta.group].append(field.name)
        else:
            alone[field.name] = strategy

    @st.composite
    def draw_message(draw: st.DrawFn) -> betterproto.Message:
        values = {name: draw(strategy) for name, strategy in alone.items() if draw(st.integers(0, 5))}
        for members in groups.values():
            name = draw(st.sampled_from([*members, ""]))
            if name:
                values[name] = draw(drawn[name])
        return message(**values)

    return draw_message()


def _field(metadata: Any, name: str, meta: betterproto.FieldMetadata) -> st.SearchStrategy[Any]:
    repeated = metadata.default_gen[name] is list
    if meta.proto_type == betterproto.TYPE_MAP:
        return maps
    if meta.wraps:
        return st.none() | integers
    if meta.proto_type == betterproto.TYPE_MESSAGE:
        inner: st.SearchStrategy[Any] = messages(metadata.cls_by_field[name])
    elif meta.proto_type == betterproto.TYPE_STRING:
        inner = strings.filter(encodable)
    elif meta.proto_type == betterproto.TYPE_BOOL:
        inner = st.booleans()
    elif meta.proto_type == betterproto.TYPE_INT64:
        inner = integers
    else:
        inner = small_integers
    return st.lists(inner, max_size=3) if repeated else inner


def payloads(message: type[betterproto.Message]) -> st.SearchStrategy[bytes]:
    """Encoded requests: as drawn, cut short, with a byte changed, or of random bytes."""
    encoded = messages(message).map(bytes)

    def cut(data: bytes, position: int) -> bytes:
        return data[: position % (len(data) + 1)]

    def change(data: bytes, position: int, byte: int) -> bytes:
        if not data:
            return bytes([byte])
        position %= len(data)
        return data[:position] + bytes([byte]) + data[position + 1 :]

    return st.one_of(
        encoded,
        encoded,
        encoded,
        encoded,
        st.builds(cut, encoded, st.integers(0, 1 << 16)),
        st.builds(change, encoded, st.integers(0, 1 << 16), st.integers(0, 255)),
        st.binary(max_size=64),
    )
