"""The CSI Identity service: who this plugin is, what it can do, and whether it is ready."""

from collections.abc import Awaitable, Callable

from rds_csi.csi import v1 as csi


class IdentityService(csi.IdentityBase):
    """Identity of a plugin that serves the controller, the node, or both.

    ``readiness`` is asked by every Probe: a node is ready when its tools are there; a controller is ready even
    while its array is away, because a restart would not bring it back.
    """

    def __init__(
        self,
        driver_name: str,
        version: str,
        *,
        controller: bool,
        group: bool,
        readiness: Callable[[], Awaitable[bool]],
        snapshots: bool = True,
        expansion: bool = True,
    ) -> None:
        """``group``: group snapshots are served too; ``snapshots``, ``expansion``: what the array can do."""
        self._driver_name = driver_name
        self._version = version
        self._readiness = readiness
        self._expansion = expansion
        offered = {
            "CONTROLLER_SERVICE": controller,
            "GROUP_CONTROLLER_SERVICE": group,
            "VOLUME_ACCESSIBILITY_CONSTRAINTS": True,
            "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS": snapshots,
        }
        self._services = [service for service, is_offered in offered.items() if is_offered]

    async def get_plugin_info(self, request: csi.GetPluginInfoRequest) -> csi.GetPluginInfoResponse:  # noqa: ARG002
        return csi.GetPluginInfoResponse(name=self._driver_name, vendor_version=self._version)

    async def get_plugin_capabilities(
        self,
        request: csi.GetPluginCapabilitiesRequest,  # noqa: ARG002
    ) -> csi.GetPluginCapabilitiesResponse:
        capabilities = [
            csi.PluginCapability(
                service=csi.PluginCapabilityService(type=csi.PluginCapabilityServiceType.from_string(service))
            )
            for service in self._services
        ]
        if self._expansion:
            online = csi.PluginCapabilityVolumeExpansionType.from_string("ONLINE")
            expansion = csi.PluginCapabilityVolumeExpansion(type=online)
            capabilities.append(csi.PluginCapability(volume_expansion=expansion))
        return csi.GetPluginCapabilitiesResponse(capabilities=capabilities)

    async def probe(self, request: csi.ProbeRequest) -> csi.ProbeResponse:  # noqa: ARG002
        return csi.ProbeResponse(ready=await self._readiness())
