"""What the doctor found: one look each, how bad it is, and how to mend it."""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from rds_csi.logging import single_line
from rds_csi.model.volumes import Finding

T = TypeVar("T")


class State(StrEnum):
    """How it is with what was looked at. A warning: volumes work, but not all that one may want of them."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Result:
    """One look. ``remedy`` says what to do; it is "" only where all is well."""

    subject: str
    state: State
    message: str
    remedy: str = ""


def ok(subject: str, message: str, remedy: str = "") -> Result:
    """All is well; ``remedy`` is what to do all the same."""
    return Result(subject, State.OK, message, remedy)


def warning(subject: str, message: str, remedy: str) -> Result:
    """Something is not as it should be, but volumes work."""
    return Result(subject, State.WARNING, message, remedy)


def missing(subject: str, message: str, remedy: str) -> Result:
    """Volumes do not work, or not all of them, until somebody has acted."""
    return Result(subject, State.MISSING, message, remedy)


def result_of(finding: Finding) -> Result:
    """A backend's own finding; one that is well and has a remedy is about something optional."""
    if not finding.ok:
        return missing(finding.subject, finding.message, finding.remedy or "Look at the driver's log of this node.")
    return (warning if finding.remedy else ok)(finding.subject, finding.message, finding.remedy)


async def together(looks: Iterable[Coroutine[Any, Any, T]]) -> Sequence[T]:
    """What the looks find, all at once and in their order; none of them runs on when one breaks."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(look) for look in looks]
    return [task.result() for task in tasks]


def worst_last(results: Iterable[Result]) -> Sequence[Result]:
    """The order to read them in: what is missing stands right above the prompt."""
    return sorted(results, key=lambda result: list(State).index(result.state))


def print_results(results: Sequence[Result]) -> None:
    """A line for each look, its remedy below it, and a summary."""
    widths = max(len(state) for state in State), max((len(result.subject) for result in results), default=0)
    for result in results:
        print(f"{result.state:<{widths[0]}}  {result.subject:<{widths[1]}}  {single_line(result.message)}".rstrip())
        if result.remedy:
            print(f"{'':<{widths[0] + widths[1] + 4}}to do: {single_line(result.remedy)}")
    counts = {state: sum(result.state is state for result in results) for state in State}
    warnings = "1 warning" if counts[State.WARNING] == 1 else f"{counts[State.WARNING]} warnings"
    print(f"\n{counts[State.OK]} ok, {warnings}, {counts[State.MISSING]} missing.")
