"""Many volumes staged at once, against the same connects and mounts one after the other in a shell."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.nvme.floor import Floor, How, settle
from benchmarks.nvme.server import client, node_server
from benchmarks.nvme.target import Exported
from benchmarks.report import Figure

STEPS = ("stage", "unstage")
AIM = "≤ 1.0×"


def figures(directory: Path, floor: Floor, connector: str, volumes: Sequence[Exported]) -> Iterator[Figure]:
    """The driver once, and the shell once with the same way to connect."""
    how = How.FABRICS if connector == "fabrics" else How.CLI

    async def ours() -> list[tuple[float, int]]:
        with client(driver) as node:
            # Not counted: what is loaded at the first use.
            await node.life(volumes[0])
            return await node.burst(volumes)

    with node_server(directory, connector, f"{connector}-burst") as driver:
        mine = asyncio.run(ours())
    settle(0)
    bare = floor.burst(how, volumes)
    settle(0)
    for step, (taken, repeats), shell in zip(STEPS, mine, bare, strict=True):
        yield Figure(
            f"{connector}: {step} {len(volumes)} volumes at once",
            f"{taken:.1f} s / shell with {how} {shell:.1f} s = {taken / shell:.2f}×; {repeats} calls repeated",
            AIM if step == "stage" else "",
        )
