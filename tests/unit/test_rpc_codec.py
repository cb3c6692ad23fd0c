"""The protobuf decoder and encoder: the same as betterproto's for what is right, strict for what is not."""

import contextlib
import dataclasses
import inspect
import time
from datetime import UTC, datetime
from typing import cast

import betterproto
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rds_csi import errors
from rds_csi.csi import v1 as csi
from rds_csi.rpc.decode import MAX_FIELDS, decode
from rds_csi.rpc.encode import encode
from tests.support.messages import messages

MESSAGES = [
    item
    for _, item in inspect.getmembers(csi, inspect.isclass)
    if issubclass(item, betterproto.Message) and item is not betterproto.Message
]
# A loaded machine is no failure.
SLOW_IS_FINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
REQUESTS = [message for message in MESSAGES if message.__name__.endswith("Request")]


def test_there_are_messages() -> None:
    assert len(REQUESTS) > 30


@SLOW_IS_FINE
@given(st.data())
def test_requests_are_read_as_betterproto_wrote_them(data: st.DataObject) -> None:
    message_type = data.draw(st.sampled_from(REQUESTS))
    message = data.draw(messages(message_type))
    wire = bytes(message)
    decoded = decode(message_type, wire)
    assert decoded == message_type().parse(wire)
    assert bytes(decoded) == wire


@SLOW_IS_FINE
@given(st.data())
def test_requests_are_written_as_betterproto_reads_them(data: st.DataObject) -> None:
    message_type = data.draw(st.sampled_from(REQUESTS))
    message = data.draw(messages(message_type))
    # Not compared with bytes(message): betterproto loses a map's entry whose key and value are both empty.
    assert message_type().parse(encode(message)) == message
    assert decode(message_type, encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        csi.ProbeResponse(),
        csi.ProbeResponse(ready=True),
        csi.ProbeResponse(ready=False),
        csi.GetCapacityResponse(available_capacity=5, maximum_volume_size=1 << 40, minimum_volume_size=0),
        csi.CreateSnapshotResponse(
            snapshot=csi.Snapshot(
                size_bytes=1,
                snapshot_id="s",
                creation_time=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
                ready_to_use=True,
            )
        ),
        csi.Snapshot(creation_time=datetime(1969, 12, 31, 23, 59, 58, 500000, UTC)),
        csi.Snapshot(creation_time=datetime.fromtimestamp(0, UTC)),
        csi.ControllerPublishVolumeResponse(publish_context={"a": "b", "ü": "ß"}),
        csi.ListVolumesResponse(entries=[csi.ListVolumesResponseEntry(), csi.ListVolumesResponseEntry()]),
        csi.NodeGetInfoResponse(
            node_id="n", max_volumes_per_node=-1, accessible_topology=csi.Topology(segments={"z": "1"})
        ),
        csi.VolumeCapability(block=csi.VolumeCapabilityBlockVolume()),
        csi.VolumeCapability(mount=csi.VolumeCapabilityMountVolume(mount_flags=["", "ro"])),
        csi.NodeServiceCapability(rpc=csi.NodeServiceCapabilityRpc(type=csi.NodeServiceCapabilityRpcType(3))),
        csi.NodeServiceCapability(rpc=csi.NodeServiceCapabilityRpc()),
    ],
)
def test_responses_are_written_as_betterproto_writes_them(message: betterproto.Message) -> None:
    assert encode(message) == bytes(message)


def test_an_empty_item_of_a_list_keeps_its_field() -> None:
    # Field 2 of the message; betterproto writes such an item with the number 1.
    response = csi.NodeGetVolumeStatsResponse(usage=[csi.VolumeUsage()])
    assert decode(csi.NodeGetVolumeStatsResponse, encode(response)).usage == [csi.VolumeUsage()]


def test_a_nested_message_that_was_there_is_told_from_one_that_was_not() -> None:
    there = decode(csi.CreateVolumeRequest, bytes([0x12, 0x00]))
    assert betterproto.serialized_on_wire(there.capacity_range)
    absent = decode(csi.CreateVolumeRequest, b"")
    assert not betterproto.serialized_on_wire(absent.capacity_range)


def test_of_a_oneof_the_last_member_counts() -> None:
    block, mount = bytes([0x0A, 0x00]), bytes([0x12, 0x00])
    assert betterproto.which_one_of(decode(csi.VolumeCapability, block + mount), "access_type")[0] == "mount"
    assert betterproto.which_one_of(decode(csi.VolumeCapability, mount + block), "access_type")[0] == "block"


@SLOW_IS_FINE
@given(st.sampled_from(REQUESTS), st.binary(max_size=64))
def test_garbage_is_a_message_or_an_invalid_argument(message_type: type[betterproto.Message], data: bytes) -> None:
    try:
        message = decode(message_type, data)
    except errors.InvalidArgument:
        return
    encode(message)


@SLOW_IS_FINE
@given(st.data())
def test_a_request_cut_short_is_never_taken_for_a_longer_one(data: st.DataObject) -> None:
    message_type = data.draw(st.sampled_from(REQUESTS))
    wire = bytes(data.draw(messages(message_type)))
    cut = wire[: data.draw(st.integers(0, len(wire)))]
    with contextlib.suppress(errors.InvalidArgument):
        assert len(bytes(decode(message_type, cut))) <= len(wire)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x1a\x00" * (2 << 20),  # volume_capabilities, each empty
        b"\x1a\x02\x12\x00" * (1 << 20),  # the same with a mount
        b"\x22\x00" * (2 << 20),  # parameters
        b"\xf8\x01\x01" * (1 << 20),  # unknown fields
    ],
)
def test_a_bomb_is_refused_in_bounded_time(bomb: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(errors.ResourceExhausted, match=f"more than {MAX_FIELDS} fields"):
        decode(csi.CreateVolumeRequest, bomb)
    assert time.process_time() - begun < 10


def test_every_value_of_a_wrong_type_is_an_error_and_not_a_wrong_answer() -> None:
    for wrong in (
        csi.NodeGetInfoResponse(node_id=cast(str, 5)),
        csi.NodeGetInfoResponse(max_volumes_per_node=cast(int, "5")),
        csi.NodeGetInfoResponse(max_volumes_per_node=1 << 64),
        csi.NodeGetInfoResponse(accessible_topology=cast(csi.Topology, "x")),
    ):
        with pytest.raises((TypeError, ValueError)):
            encode(wrong)


def test_messages_are_dataclasses() -> None:
    assert all(dataclasses.is_dataclass(message) for message in MESSAGES)
