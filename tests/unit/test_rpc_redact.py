"""Secrets are stripped wherever the proto marks them."""

import dataclasses
import inspect

import betterproto

from rds_csi.csi import v1 as csi
from rds_csi.csi.secrets import SECRET_FIELDS
from rds_csi.rpc.decode import decode
from rds_csi.rpc.redact import describe, scrub, secret_values


def test_every_message_with_secrets_is_stripped() -> None:
    stripped = set()
    for name, message_type in inspect.getmembers(csi, inspect.isclass):
        if not issubclass(message_type, betterproto.Message) or message_type is betterproto.Message:
            continue
        known = {field.name for field in dataclasses.fields(message_type)}  # type: ignore[arg-type]  # dataclasses
        if "secrets" in known:
            stripped.add(name)
            request = decode(message_type, b"")
            vars(request)["secrets"] = {"password": "hunter22"}
            assert describe(request) == {"secrets": "***stripped***"}
            assert secret_values(request) == {"hunter22"}
    assert stripped == set(SECRET_FIELDS)


def test_only_what_is_set_is_described() -> None:
    request = csi.CreateVolumeRequest(
        name="pvc-1",
        capacity_range=csi.CapacityRange(required_bytes=5),
        volume_capabilities=[csi.VolumeCapability(block=csi.VolumeCapabilityBlockVolume())],
        parameters={"pool": "a"},
    )
    assert describe(request) == {
        "name": "pvc-1",
        "capacity_range": {"required_bytes": 5},
        "volume_capabilities": [{"block": {}}],
        "parameters": {"pool": "a"},
    }


def test_an_unknown_enum_value_is_described_by_its_number() -> None:
    mode = csi.VolumeCapabilityAccessMode()
    mode.mode = csi.VolumeCapabilityAccessModeMode.try_value(77)
    assert describe(mode) == {"mode": 77}
    mode.mode = csi.VolumeCapabilityAccessModeMode.try_value(1)
    assert describe(mode) == {"mode": "SINGLE_NODE_WRITER"}


def test_secrets_are_found_in_a_text_in_every_form() -> None:
    request = csi.NodeStageVolumeRequest(
        secrets={"key": "first line\nsecond line", "pin": "12", "longer": "first line!"}
    )
    secrets = secret_values(request)
    text = "12: first line! and second line and 'first line\\nsecond line'"
    assert scrub(text, secrets) == "12: ***stripped*** and ***stripped*** and '***stripped***'"
