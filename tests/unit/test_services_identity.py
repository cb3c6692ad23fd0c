"""The identity service: name, honest capabilities, readiness."""

import betterproto
import pytest

from rds_csi.csi import v1 as csi
from rds_csi.services.identity import IdentityService


async def capabilities(*, controller: bool, group: bool) -> set[str | None]:
    async def ready() -> bool:
        return True

    service = IdentityService("rds.example", "1.2.3", controller=controller, group=group, readiness=ready)
    answer = await service.get_plugin_capabilities(csi.GetPluginCapabilitiesRequest())
    messages = [betterproto.which_one_of(item, "type")[1] for item in answer.capabilities]
    return {message.type.name for message in messages if message is not None}


async def test_a_controller_offers_its_services_and_a_node_does_not() -> None:
    both = {"VOLUME_ACCESSIBILITY_CONSTRAINTS", "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS", "ONLINE"}
    of_controller = await capabilities(controller=True, group=True)
    assert of_controller >= {"CONTROLLER_SERVICE", "GROUP_CONTROLLER_SERVICE", *both}
    of_node = await capabilities(controller=False, group=False)
    assert of_node >= both
    assert not of_node & {"CONTROLLER_SERVICE", "GROUP_CONTROLLER_SERVICE"}


@pytest.mark.parametrize("is_ready", [True, False])
async def test_probe_tells_readiness_as_it_is_now(is_ready: bool) -> None:
    async def ready() -> bool:
        return is_ready

    service = IdentityService("rds.example", "1.2.3", controller=False, group=False, readiness=ready)
    assert (await service.probe(csi.ProbeRequest())).ready is is_ready
    info = await service.get_plugin_info(csi.GetPluginInfoRequest())
    assert (info.name, info.vendor_version) == ("rds.example", "1.2.3")
