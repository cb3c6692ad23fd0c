"""The client over SSH: each method is one exec of one script."""

import secrets
from collections.abc import Callable

from rds_csi.arrays.routeros.client import Console
from rds_csi.arrays.routeros.commands import Anchors, Command, Outcome
from rds_csi.arrays.routeros.records import DeviceFacts, Disk, File, Subvolume
from rds_csi.arrays.routeros.replies import parse_disks, parse_files, parse_jobs, parse_subvolumes
from rds_csi.arrays.routeros.script import (
    command_script,
    copy_script,
    disks_look,
    facts_script,
    files_look,
    job_script,
    look_script,
)
from rds_csi.arrays.routeros.script_replies import read_facts, read_job, read_look, read_outcome
from rds_csi.model.sizes import MIB

# Seconds. A create of 100 GB was told to take 2 to 5 s, a deletion half a second (facts, 3).
COMMAND_TIMEOUT = 60.0
LOOK_TIMEOUT = 20.0
# A list of 10,000 disks, about 1 KiB each.
LIST_TIMEOUT = 60.0

# Bytes. Enough for a few disks with the longest comments, and for a list of the fullest device.
ANSWER_LIMIT = MIB
LIST_LIMIT = 256 * MIB


def _fresh_nonce() -> str:
    return secrets.token_hex(8)


class SshClient:
    """A RouterOS device at the other end of a console. ``user`` is whose policies ``facts`` tells."""

    def __init__(self, console: Console, *, user: str = "", nonce: Callable[[], str] = _fresh_nonce) -> None:
        self._console = console
        self._user = user
        self._nonce = nonce

    async def execute(self, command: Command) -> Outcome:
        nonce = self._nonce()
        script = command_script(command, nonce)
        return read_outcome(await self._write(script), nonce)

    async def find_disks(self, anchors: Anchors) -> tuple[Disk, ...]:
        nonce = self._nonce()
        return parse_disks(read_look(await self._run(disks_look(anchors, nonce), LOOK_TIMEOUT), nonce))

    async def list_disks(self) -> tuple[Disk, ...]:
        return parse_disks(await self._list("/disk"))

    async def list_files(self, directory: str) -> tuple[File, ...]:
        nonce = self._nonce()
        reply = await self._run(files_look(directory, nonce), LIST_TIMEOUT, LIST_LIMIT)
        files = parse_files(read_look(reply, nonce))
        return tuple(file for file in files if file.name.startswith(f"{directory}/"))

    async def list_subvolumes(self) -> tuple[Subvolume, ...]:
        return parse_subvolumes(await self._list("/disk/btrfs/subvolume"))

    async def facts(self) -> DeviceFacts:
        nonce = self._nonce()
        return read_facts(await self._run(facts_script(self._user, nonce), LOOK_TIMEOUT), nonce, self._user)

    async def copy_file(self, source: str, destination: str, then: Command) -> str:
        nonce = self._nonce()
        script = job_script(copy_script(source, destination, then), nonce)
        return read_job(await self._write(script), nonce)

    async def running_jobs(self) -> frozenset[str]:
        return frozenset(job.id for job in parse_jobs(await self._list("/system/script/job")))

    async def close(self) -> None:
        await self._console.close()

    async def _list(self, menu: str) -> object:
        nonce = self._nonce()
        return read_look(await self._run(look_script(menu, "", nonce), LIST_TIMEOUT, LIST_LIMIT), nonce)

    async def _write(self, script: str) -> str:
        return await self._console.run(script, timeout=COMMAND_TIMEOUT, output_limit=ANSWER_LIMIT, whole=True)

    async def _run(self, script: str, timeout: float, limit: int = ANSWER_LIMIT) -> str:
        return await self._console.run(script, timeout=timeout, output_limit=limit)
