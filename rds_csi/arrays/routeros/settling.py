"""The one path of every write: send it, and when its fate is not known, look and decide (design, rule 8).

A command is guarded: what it does, it does only when its expectation holds, and no expectation holds any more once it
was done. So after a lost reply the look says whether there is anything left to be done.
"""

from dataclasses import replace

from rds_csi import deadline
from rds_csi.arrays.routeros.client import Client
from rds_csi.arrays.routeros.commands import Command, Outcome, decide
from rds_csi.arrays.routeros.errors import GarbageReply, LostReply
from rds_csi.arrays.routeros.lookups import Lookups
from rds_csi.errors import DeadlineExceeded, DriverError, FailedPrecondition, ResourceExhausted, Unavailable
from rds_csi.retry import Clock, RetryPolicy, retry_transient

# What did not reach the array is sent again so often.
UNSENT = RetryPolicy(attempts=4, first_delay=0.3)
# A command whose reply was lost, and which was not done, is sent so many times in all.
SENDS = 3
# Seconds between a lost reply and the look: the array may still be at it.
SETTLE_SECONDS = 0.5

# Parts of RouterOS's words, in lower case: they differ between versions (facts, 2.1).
_DENIED = ("not enough permissions", "not allowed (9)")
_FULL = ("space",)
_PASSING = ("timeout", "busy", "interrupted", "try again")


class Settling:
    """Executes commands until their outcome is known."""

    def __init__(
        self, client: Client, lookups: Lookups, *, clock: Clock | None = None, policy: RetryPolicy = UNSENT
    ) -> None:
        self._client = client
        self._lookups = lookups
        self._clock = clock or Clock()
        self._policy = policy

    async def execute(self, command: Command) -> Outcome:
        """What the command came to. ``done`` −1 with disks that are as the command would leave them: it was done, but
        its reply was lost. LostReply or GarbageReply when it cannot be found out."""
        sent = 1
        lost: LostReply | GarbageReply | None = None
        while True:
            try:
                outcome = await self._send(command)
            except (LostReply, GarbageReply) as error:
                if sent == SENDS:
                    raise
                lost = error
            else:
                if lost is not None and _may_be_half_done(outcome):
                    raise lost
                return outcome
            await self._clock.sleep(SETTLE_SECONDS)
            disks = await self._lookups.find(command.anchors)
            if not _is_left(command, Outcome(-1, disks=disks)):
                return Outcome(-1, disks=disks, files_known=False)
            sent += 1

    async def _send(self, command: Command) -> Outcome:
        async def step() -> Outcome:
            if deadline.remaining() == 0.0:
                raise DeadlineExceeded("the array could not be reached in time; nothing was done")
            return await self._client.execute(command)

        return await retry_transient(step, self._policy)


def _is_left(command: Command, seen: Outcome) -> bool:
    """Whether a deed with steps could still be done, as far as the disks tell."""
    blind = replace(
        command,
        deeds=tuple(replace(deed, expect=replace(deed.expect, no_file=False)) for deed in command.deeds),
    )
    index = decide(blind, seen.disks, ())
    return index >= 0 and bool(command.deeds[index].steps)


def _may_be_half_done(outcome: Outcome) -> bool:
    """Whether what a repeated command finds may be the work of the one whose reply was lost: it has the file, not yet
    the disk. Taken for somebody else's file, it would end in an error that asks a person to move it away."""
    return outcome.done < 0 and bool(outcome.files) and not outcome.disks


def is_final(words: str) -> bool:
    """Whether RouterOS's words say that trying again at once is of no use."""
    lowered = words.lower()
    return any(part in lowered for part in (*_DENIED, *_FULL))


def refusal(words: str, what: str, *, missing: bool = False) -> DriverError:
    """The error for a step that RouterOS refused with ``words``; ``what`` failed. ``missing``: the pool was looked at,
    and has not the room."""
    lowered = words.lower()
    told = f"{what}: RouterOS says {words!r}"
    if any(part in lowered for part in _DENIED):
        return FailedPrecondition(
            told, remedy="Give the user's group the policies read and write (over SSH ssh, over REST api and rest-api)."
        )
    if missing or any(part in lowered for part in _FULL):
        return ResourceExhausted(told, remedy="Make room in the pool: delete volumes or snapshots, or add disks.")
    if any(part in lowered for part in _PASSING):
        return Unavailable(told)
    return FailedPrecondition(told, remedy="Run rds-csi doctor against the array; the driver tries again.")
