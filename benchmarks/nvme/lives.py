"""Rounds of one volume's life: the driver and its floors take turns, the order alternating."""

import asyncio
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.nvme.floor import Floor, How, settle
from benchmarks.nvme.server import Node, client, node_server
from benchmarks.nvme.target import Exported
from benchmarks.report import Figure

STEPS = ("stage", "publish", "unpublish", "unstage")
# What NodeStage and NodeUnstage may cost, as multiples of the bare steps with nvme-cli.
AIMS = {"nvme-cli": "≤ 1.5×", "fabrics": "≤ 1.2×"}
# What NodeStage may cost beside others, as a multiple of beside none.
CROWD_AIM = "≤ 1.2×"


@dataclass(slots=True)
class Lives:
    """Seconds of each step of each round beside ``sessions`` others, and what each step started."""

    connector: str
    sessions: int
    driver: list[list[float]] = field(default_factory=list)
    floors: dict[How, list[list[float]]] = field(default_factory=dict)
    programs: list[dict[str, int]] = field(default_factory=list)

    def milliseconds(self, step: int, how: How | None = None) -> float:
        """The median of a step: the driver's, or a floor's."""
        rounds = self.driver if how is None else self.floors[how]
        return statistics.median(times[step] for times in rounds) * 1000


def measure(directory: Path, floor: Floor, lives: Lives, volume: Exported, rounds: int) -> Lives:
    """Fill ``lives`` with that many rounds."""
    hows = [How.CLI, How.FABRICS] if lives.connector == "fabrics" else [How.CLI]
    lives.floors = {how: [] for how in hows}

    async def turn(node: Node, how: How | None) -> None:
        await asyncio.to_thread(settle, lives.sessions)
        if how is None:
            lives.driver.append(await node.life(volume))
        else:
            lives.floors[how].append(await asyncio.to_thread(floor.life, how, volume))

    async def every_round() -> None:
        with client(driver) as node:
            # Not counted in time: the first ones load what is loaded at the first use, and read the names of all
            # other sessions, which later ones know.
            await node.life(volume)
            await asyncio.to_thread(settle, lives.sessions)
            lives.programs = await node.programs(volume)
            for number in range(rounds):
                turns = [None, *hows]
                for how in turns if number % 2 else reversed(turns):
                    await turn(node, how)
        await asyncio.to_thread(settle, lives.sessions)

    with node_server(directory, lives.connector, f"{lives.connector}-{lives.sessions}") as driver:
        asyncio.run(every_round())
    return lives


def figures(lives: Lives) -> Iterator[Figure]:
    """Each step against each floor, and the programs that it started."""
    beside = f", beside {lives.sessions} sessions" if lives.sessions else ""
    for number, step in enumerate(STEPS):
        mine = lives.milliseconds(number)
        bare = [(how, lives.milliseconds(number, how)) for how in lives.floors]
        against = "; ".join(f"bare with {how} {floor:.0f} ms = {mine / floor:.2f}×" for how, floor in bare)
        started = ", ".join(f"{count} {name}" for name, count in lives.programs[number].items()) or "nothing"
        aimed = step in ("stage", "unstage") and not lives.sessions
        yield Figure(
            f"{lives.connector}: {step}{beside}",
            f"{mine:.0f} ms; {against}; starts {started}",
            AIMS[lives.connector] if aimed else "",
        )


def crowd_figures(alone: Lives, crowded: Lives) -> Iterator[Figure]:
    """NodeStage beside other sessions against beside none; the same of the floors."""
    pairs: Sequence[How | None] = (None, *alone.floors)
    for how in pairs:
        before, after = alone.milliseconds(0, how), crowded.milliseconds(0, how)
        who = f"bare with {how}" if how else alone.connector
        yield Figure(
            f"{who}: stage beside {crowded.sessions} / beside none",
            f"{after:.0f} / {before:.0f} ms = {after / before:.2f}×",
            "" if how else CROWD_AIM,
        )
