"""The client's side of the demo: what a CO would call, over the real socket."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from rds_csi.csi.v1 import (
    CapacityRange,
    ControllerExpandVolumeRequest,
    ControllerPublishVolumeRequest,
    ControllerStub,
    ControllerUnpublishVolumeRequest,
    CreateSnapshotRequest,
    CreateVolumeRequest,
    DeleteSnapshotRequest,
    DeleteVolumeRequest,
    NodeExpandVolumeRequest,
    NodePublishVolumeRequest,
    NodeStageVolumeRequest,
    NodeStub,
    NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest,
    Volume,
    VolumeCapability,
    VolumeCapabilityAccessMode,
    VolumeCapabilityAccessModeMode,
    VolumeCapabilityMountVolume,
    VolumeContentSource,
)
from rds_csi.model.names import id_for_name

# The node's name in the demo.
NODE = "demo-node"
# Every call of the demo ends within this many seconds, or the demo fails.
CALL_SECONDS = 120.0
# Between two tries to undo what is still being done.
AGAIN_SECONDS = 0.2


@dataclass(slots=True)
class Actors:
    """Both stubs, the directories, and the volumes and snapshots made so far."""

    directory: str
    fs_type: str
    controller: ControllerStub
    node: NodeStub
    node_id: str = NODE
    volumes: list[str] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)

    @property
    def capability(self) -> VolumeCapability:
        """A filesystem for one writer."""
        return VolumeCapability(
            mount=VolumeCapabilityMountVolume(fs_type=self.fs_type),
            access_mode=VolumeCapabilityAccessMode(
                mode=VolumeCapabilityAccessModeMode(VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER)
            ),
        )

    def staging(self, volume_id: str) -> str:
        """Where the volume is mounted once."""
        return os.path.join(self.directory, "staging", volume_id)

    def pod(self, volume_id: str) -> str:
        """Where the pod sees the volume."""
        return os.path.join(self.directory, "pods", volume_id)

    async def create(self, name: str, size: int, source: VolumeContentSource | None = None) -> Volume:
        """A new volume, blank or with the content of ``source``."""
        request = CreateVolumeRequest(
            name=name, capacity_range=CapacityRange(required_bytes=size), volume_capabilities=[self.capability]
        )
        if source is not None:
            request.volume_content_source = source
        # Noted first: a call that is given up may be carried out all the same.
        self.volumes.append(id_for_name(name))
        return (await self.controller.create_volume(request, timeout=CALL_SECONDS)).volume

    async def attach(self, volume: Volume) -> dict[str, str]:
        """The array lets the node in."""
        request = ControllerPublishVolumeRequest(
            volume_id=volume.volume_id,
            node_id=self.node_id,
            volume_capability=self.capability,
            volume_context=volume.volume_context,
        )
        return (await self.controller.controller_publish_volume(request, timeout=CALL_SECONDS)).publish_context

    async def stage(self, volume: Volume, publish_context: dict[str, str]) -> None:
        """Device, filesystem, mount."""
        request = NodeStageVolumeRequest(
            volume_id=volume.volume_id,
            publish_context=publish_context,
            staging_target_path=self.staging(volume.volume_id),
            volume_capability=self.capability,
            volume_context=volume.volume_context,
        )
        await self.node.node_stage_volume(request, timeout=CALL_SECONDS)

    async def publish(self, volume: Volume, publish_context: dict[str, str]) -> str:
        """The pod's mount; returns its path."""
        request = NodePublishVolumeRequest(
            volume_id=volume.volume_id,
            publish_context=publish_context,
            staging_target_path=self.staging(volume.volume_id),
            target_path=self.pod(volume.volume_id),
            volume_capability=self.capability,
            volume_context=volume.volume_context,
        )
        await self.node.node_publish_volume(request, timeout=CALL_SECONDS)
        return self.pod(volume.volume_id)

    async def mount(self, volume: Volume) -> str:
        """All of it in one go, for the copies."""
        publish_context = await self.attach(volume)
        await self.stage(volume, publish_context)
        return await self.publish(volume, publish_context)

    async def detach(self, volume_id: str, *, node: bool) -> None:
        """Everything back, in the order of Kubernetes; each call is fine with what is not there."""
        if node:
            await self.node.node_unpublish_volume(
                NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=self.pod(volume_id)), timeout=CALL_SECONDS
            )
            await self.node.node_unstage_volume(
                NodeUnstageVolumeRequest(volume_id=volume_id, staging_target_path=self.staging(volume_id)),
                timeout=CALL_SECONDS,
            )
        await self.controller.controller_unpublish_volume(
            ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id=self.node_id), timeout=CALL_SECONDS
        )

    async def delete(self) -> None:
        """Every volume and snapshot made."""
        for volume_id in self.volumes:
            await self.controller.delete_volume(DeleteVolumeRequest(volume_id=volume_id), timeout=CALL_SECONDS)
        for snapshot_id in self.snapshots:
            await self.controller.delete_snapshot(DeleteSnapshotRequest(snapshot_id=snapshot_id), timeout=CALL_SECONDS)
        self.volumes.clear()
        self.snapshots.clear()

    async def undo(self, *, node: bool) -> list[str]:
        """Whatever happened: take back what is still there; returns what could not be, in sentences."""
        problems = []
        for volume_id in self.volumes:
            try:
                await _patiently(partial(self.detach, volume_id, node=node))
            except GRPCError as error:
                problems.append(f"{volume_id} could not be detached: {error.message}")
        try:
            await _patiently(self.delete)
        except GRPCError as error:
            problems.append(f"not everything could be deleted: {error.message}")
        return problems

    async def snapshot(self, volume: Volume, name: str) -> str:
        """A snapshot of the volume; returns its id."""
        request = CreateSnapshotRequest(source_volume_id=volume.volume_id, name=name)
        self.snapshots.append(id_for_name(name))
        snapshot = (await self.controller.create_snapshot(request, timeout=CALL_SECONDS)).snapshot
        return snapshot.snapshot_id

    async def expand(self, volume: Volume, size: int) -> int:
        """The array's half of growth; returns the new size in bytes."""
        request = ControllerExpandVolumeRequest(
            volume_id=volume.volume_id,
            capacity_range=CapacityRange(required_bytes=size),
            volume_capability=self.capability,
        )
        return (await self.controller.controller_expand_volume(request, timeout=CALL_SECONDS)).capacity_bytes

    async def expand_filesystem(self, volume: Volume, size: int) -> None:
        """The node's half of growth, while the pod has the volume."""
        request = NodeExpandVolumeRequest(
            volume_id=volume.volume_id,
            volume_path=self.pod(volume.volume_id),
            capacity_range=CapacityRange(required_bytes=size),
            staging_target_path=self.staging(volume.volume_id),
            volume_capability=self.capability,
        )
        await self.node.node_expand_volume(request, timeout=CALL_SECONDS)


async def _patiently(call: Callable[[], Awaitable[None]]) -> None:
    """Repeat the call while it is ABORTED: the step that somebody gave up (Ctrl-C) is still running."""
    deadline = time.monotonic() + CALL_SECONDS
    while True:
        try:
            return await call()
        except GRPCError as error:
            if error.status is not Status.ABORTED or time.monotonic() > deadline:
                raise
        await asyncio.sleep(AGAIN_SECONDS)
