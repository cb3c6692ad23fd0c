"""``rds-csi orphans``: what on an array belongs to no PersistentVolume, and what is damaged; deletion only by a list.

It reports. With ``--delete`` it removes what the list names, and of that only what two reports, far enough apart, have
called an orphan; the array itself refuses what is attached or not provably ours.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from rds_csi.arrays.protocol import Array
from rds_csi.arrays.routeros.objects import Inventory
from rds_csi.arrays.several import SeveralArrays
from rds_csi.commands import orphan_sightings
from rds_csi.commands.orphan_decision import Verdict
from rds_csi.commands.orphan_lists import in_use_source, parse_list, read_text
from rds_csi.commands.orphan_report import Line, Outcome, Report
from rds_csi.commands.stopping import Stopping
from rds_csi.commands.tables import print_table
from rds_csi.errors import ConfigurationError
from rds_csi.locks import LockFile, OperationLocks
from rds_csi.metrics import Metrics
from rds_csi.model.host import HostPaths
from rds_csi.model.sizes import MIB
from rds_csi.parts import Machine, check_state_dir, open_array, read_boot_id
from rds_csi.settings import Settings

log = logging.getLogger(__name__)

# Seconds between two sightings: volumes that are being made, and lists that were a little old, are settled by then.
DEFAULT_APART = 86400.0
# In the state directory, shared with the servers of this node.
_LOCKS = "locks"
_WELL = (Verdict.IN_USE, Verdict.NOT_JUDGED)


async def orphans(
    settings: Settings,
    *,
    in_use: str = "",
    delete: str = "",
    apart: float = DEFAULT_APART,
    most: bool = False,
    as_json: bool = False,
) -> int:
    """Report, and delete what the file ``delete`` names. Exit status 1 when something is an orphan, damaged or
    unproven, or could not be deleted, and when an array did not answer; 128 and a signal's number when it was stopped.

    ``most``: a person has seen that most of what is there are orphans. ConfigurationError for files and flags that
    cannot be used, and for an array that cannot tell what is on it.
    """
    if delete and not in_use:
        raise ConfigurationError("--delete wants --in-use", remedy="Without it nothing is known to be an orphan.")
    if not (math.isfinite(apart) and apart >= 0):
        raise ConfigurationError(f"--apart {apart} is no number of seconds", remedy="It is 0 or more; see --help.")
    machine = Machine.of(settings, Metrics())
    text = (await read_text(delete, "--delete", machine.workers))[0] if delete else ""
    source = in_use_source(in_use, machine.workers) if in_use else None
    if source:
        # Told before the array is spoken to.
        await source()
    boot_id = await _boot_id()
    array = open_array(settings, machine)
    with Stopping() as stopping:
        try:
            inventories = _inventories(array)
            wanted = parse_list(text, _names(array))
            with _memory(settings, needed=bool(delete)) as memory:
                clock = partial(orphan_sightings.now, boot_id)
                report = Report(inventories, memory, clock, apart, machine.workers, most=most)
                await stopping.run(report.run(source, wanted), "stopping, please wait")
        finally:
            await array.close()
    (_print_json if as_json else _print_text)(report.outcome)
    if stopping.is_stopped:
        return stopping.status
    return 1 if report.outcome.away or any(_is_bad_news(line) for line in report.outcome.lines) else 0


def _is_bad_news(line: Line) -> bool:
    return line.failed or (line.judged.verdict not in _WELL and not line.result)


def _names(array: Array) -> Sequence[str]:
    return tuple(array.children) if isinstance(array, SeveralArrays) else ("",)


def _inventories(array: Array) -> Mapping[str, Array]:
    """The arrays that can tell what is on them; ConfigurationError when none can."""
    children = array.children if isinstance(array, SeveralArrays) else {"": array}
    able = {name: child for name, child in children.items() if isinstance(child, Inventory)}
    if not able:
        raise ConfigurationError(
            "this array does not tell what is on it", remedy="Name a RouterOS array, or several, with --array."
        )
    return able


@contextlib.contextmanager
def _memory(settings: Settings, *, needed: bool) -> Iterator[str]:
    """The file with earlier sightings, for this process alone; "" when there is no place for it and none is
    ``needed``."""
    try:
        check_state_dir(settings.state_dir)
        shared = LockFile(os.path.join(settings.state_dir, _LOCKS))
    except ConfigurationError as error:
        if needed:
            raise
        log.warning("%s: this report is not remembered, so nothing can be deleted by it", error.message)
        yield ""
        return
    text = f"{settings.array}\n{settings.driver_name}\n{settings.nqn_prefix}"
    path = orphan_sightings.file_in(settings.state_dir, hashlib.sha256(text.encode()).hexdigest()[:12])
    with contextlib.closing(shared), OperationLocks(shared).hold("the orphan report", path):
        yield path


async def _boot_id() -> str:
    """Of this machine, whose clocks time the sightings; "" where it is not told."""
    with contextlib.suppress(ConfigurationError):
        return await read_boot_id(HostPaths())
    return ""


def _print_text(outcome: Outcome) -> None:
    shown = [line for line in outcome.lines if line.judged.verdict not in _WELL or line.result]
    if shown:
        print_table(("VERDICT", "ID", "SIZE", "SEEN FOR", "REASON", "RESULT"), [_row(line) for line in shown])
    for key in outcome.absent:
        print(f"not there (any more): {key}")
    for name, error in (outcome.away or {}).items():
        print(f"not looked at: {f'array {name}' if name else 'the array'}: {error}")
    if outcome.doubt:
        print(f"nothing is deleted or remembered by this list: {outcome.doubt}")
    counts = {verdict: sum(line.judged.verdict is verdict for line in outcome.lines) for verdict in Verdict}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    if told or not outcome.away:
        print(told or "Nothing of ours is there.")


def _row(line: Line) -> Sequence[str]:
    age = "-" if line.age is None else f"{line.age / 3600:.1f} h"
    size = f"{line.judged.item.size // MIB} MiB"
    return line.judged.verdict, line.judged.key, size, age, line.judged.reason, line.result or "-"


def _print_json(outcome: Outcome) -> None:
    """One object on a line of its own; every object on the array is in it."""
    objects = [
        {
            "id": line.judged.key,
            "verdict": line.judged.verdict,
            "reason": line.judged.reason,
            "handle": line.judged.object_id,
            "slot": line.judged.item.slot,
            "path": line.judged.item.path,
            "size": line.judged.item.size,
            "attachedTo": list(line.judged.item.attached_to),
            "seenFor": line.age,
            "result": line.result,
        }
        for line in outcome.lines
    ]
    told = {"absent": list(outcome.absent), "doubt": outcome.doubt, "away": dict(outcome.away or {})}
    print(json.dumps({"objects": objects, **told}))
