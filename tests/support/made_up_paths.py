"""``python -m tests.support.made_up_paths SOCKET PATH``: what a driver with made-up filesystems has at PATH.

csi-sanity looks at target paths itself, where such a driver puts nothing. Its -csi.checkpathcmd lets it ask instead;
the answer is one of the tool's words: ``directory``, ``other`` (a block device) or ``not_found``.
"""

import asyncio
import shlex
import sys
from pathlib import Path

from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from rds_csi.csi.v1 import ControllerStub, ListVolumesRequest, NodeGetVolumeStatsRequest, NodeStub, VolumeUsageUnit

CALL_SECONDS = 30.0
# The tool gives up after 10 s, which an emulated machine may need to start Python.
TOOL_SECONDS = 60


async def kind_at(socket: str, path: str) -> str:
    """What there is, by the statistics that the driver gives for one of its volumes at that path."""
    async with Channel(path=socket) as channel:
        controller, node = ControllerStub(channel), NodeStub(channel)
        listed = await controller.list_volumes(ListVolumesRequest(), timeout=CALL_SECONDS)
        for entry in listed.entries:
            request = NodeGetVolumeStatsRequest(volume_id=entry.volume.volume_id, volume_path=path)
            try:
                stats = await node.node_get_volume_stats(request, timeout=CALL_SECONDS)
            except GRPCError as error:
                if error.status is not Status.NOT_FOUND:
                    raise
            else:
                inodes = any(usage.unit is VolumeUsageUnit.INODES for usage in stats.usage)
                return "directory" if inodes else "other"
    return "not_found"


def write_command(script: Path, socket: Path) -> list[str]:
    """Write the command for csi-sanity; the flags that make the tool use it."""
    python, root = shlex.quote(sys.executable), shlex.quote(str(Path(__file__).parents[2]))
    script.write_text(
        f'#!/bin/sh\ncd {root} && exec {python} -m tests.support.made_up_paths {shlex.quote(str(socket))} "$1"\n'
    )
    script.chmod(0o700)
    return [f"-csi.checkpathcmd={script}", f"-csi.checkpathcmdtimeout={TOOL_SECONDS}s"]


if __name__ == "__main__":
    print(asyncio.run(kind_at(*sys.argv[1:])))
