"""The client over REST: look, decide here, do, and compose what is there from what the requests returned.

Unlike a script over SSH this is not one step for the device: between the look and the change somebody else may act.
Changes name the disk by its id, so that never another one is hit; one controller at a time is what keeps the rest.
"""

from urllib.parse import urlencode

from rds_csi.arrays.routeros.client import Session
from rds_csi.arrays.routeros.commands import Anchors, Command, Deed, Outcome, admits, decide
from rds_csi.arrays.routeros.errors import (
    GarbageReply,
    LostReply,
    NotTrusted,
    Refused,
    Unsent,
)
from rds_csi.arrays.routeros.records import DeviceFacts, Disk, File, Subvolume
from rds_csi.arrays.routeros.replies import (
    parse_files,
    parse_jobs,
    parse_object,
    parse_objects,
    parse_subvolumes,
    parse_version,
)
from rds_csi.arrays.routeros.rest_looks import FILE, SUBVOLUME, ask, find_disks, find_files, list_disks
from rds_csi.arrays.routeros.rest_steps import StepRefused, Steps
from rds_csi.arrays.routeros.script import copy_script
from rds_csi.arrays.routeros.script_replies import granted
from rds_csi.errors import Unavailable


class RestClient:
    """A RouterOS device behind a REST session. ``user`` is whose policies ``facts`` tells."""

    def __init__(self, session: Session, *, user: str = "") -> None:
        self._session = session
        self._user = user

    async def execute(self, command: Command) -> Outcome:
        disks = await find_disks(self._session, command.anchors)
        looked = await self._files_if_needed(command, disks)
        index = decide(command, disks, looked or ())
        if index < 0:
            return Outcome(-1, disks=disks, files=looked or (), files_known=_is_known(command.anchors, looked))
        return await self._do(command.anchors, index, command.deeds[index], disks, looked)

    async def find_disks(self, anchors: Anchors) -> tuple[Disk, ...]:
        return await find_disks(self._session, anchors)

    async def list_disks(self) -> tuple[Disk, ...]:
        return await list_disks(self._session)

    async def list_files(self, directory: str) -> tuple[File, ...]:
        """With ``path`` and ``recursive``, which RouterOS has since 7.18; that they reach every depth over REST is not
        verified on a device."""
        reply = await ask(self._session, "POST", f"{FILE}/print", {"path": directory, "recursive": ""})
        return tuple(file for file in parse_files(reply) if file.name.startswith(f"{directory}/"))

    async def list_subvolumes(self) -> tuple[Subvolume, ...]:
        return parse_subvolumes(await ask(self._session, "GET", SUBVOLUME))

    async def facts(self) -> DeviceFacts:
        resource = parse_object(await ask(self._session, "GET", "/rest/system/resource"), "/system/resource")
        packages = parse_objects(await ask(self._session, "GET", "/rest/system/package"), "/system/package")
        return DeviceFacts(
            version=parse_version(str(resource.get("version", ""))),
            board=str(resource.get("board-name", "")),
            architecture=str(resource.get("architecture-name", "")),
            packages=frozenset(
                str(package.get("name", ""))
                for package in packages
                if not {"true", "yes"} & {str(package.get(flag)).lower() for flag in ("disabled", "available")}
            ),
            user=self._user,
            policies=await self._policies(),
        )

    async def copy_file(self, source: str, destination: str, then: Command) -> str:
        script = copy_script(source, destination, then)
        try:
            reply = parse_object(await ask(self._session, "POST", "/rest/execute", {"script": script}), "/execute")
        except GarbageReply as error:
            raise LostReply(f"whether the array started the copy is not known: {error}") from None
        job = reply.get("ret")
        if not isinstance(job, str) or not job.startswith("*"):
            raise LostReply("the array told no id of the job that it was to start")
        return job

    async def running_jobs(self) -> frozenset[str]:
        jobs = parse_jobs(await ask(self._session, "GET", "/rest/system/script/job"))
        return frozenset(job.id for job in jobs)

    async def close(self) -> None:
        await self._session.close()

    async def _files_if_needed(self, command: Command, disks: tuple[Disk, ...]) -> tuple[File, ...] | None:
        """The files at the anchors' paths when the decision depends on them; None when nobody has to look."""
        if any(deed.expect.no_file and admits(deed.expect, disks, ()) for deed in _until_certain(command, disks)):
            return await find_files(self._session, command.anchors.paths)
        return None

    async def _do(
        self, anchors: Anchors, index: int, deed: Deed, disks: tuple[Disk, ...], looked: tuple[File, ...] | None
    ) -> Outcome:
        steps = Steps(self._session, disks)
        try:
            for step in deed.steps:
                await steps.do(step)
        except StepRefused as error:
            return await self._look_again(anchors, index, str(error))
        except Refused as error:
            if not steps.wrote:
                raise
            return await self._look_again(anchors, index, error.text)
        except (Unsent, NotTrusted, GarbageReply) as error:
            if isinstance(error, Unsent | NotTrusted) and not steps.wrote:
                raise
            raise LostReply(f"the array was lost in the middle of a command: {error}") from None
        files = steps.files(anchors, looked)
        return Outcome(
            index,
            disks=tuple(disk for disk in steps.disks.values() if anchors.match(disk)),
            files=files or (),
            files_known=_is_known(anchors, files),
        )

    async def _look_again(self, anchors: Anchors, index: int, words: str) -> Outcome:
        """The outcome of a deed that was refused half-way: what is there is read, not concluded."""
        try:
            disks = await find_disks(self._session, anchors)
            files = await find_files(self._session, anchors.paths)
        except (Unavailable, NotTrusted, Refused) as error:
            raise LostReply(
                f"the array refused a step ({words}), and what is there now is not known: {error}"
            ) from None
        return Outcome(index, error=words, disks=disks, files=files)

    async def _policies(self) -> frozenset[str]:
        """The user's policies; none when they cannot be read."""
        if not self._user:
            return frozenset()
        try:
            group = await self._field("/rest/user", self._user, "group")
            return granted(await self._field("/rest/user/group", group, "policy"))
        except (Refused, GarbageReply):
            return frozenset()

    async def _field(self, path: str, name: str, field: str) -> str:
        rows = parse_objects(await ask(self._session, "GET", f"{path}?{urlencode({'name': name})}"), path)
        return str(rows[0].get(field, "")) if rows else ""


def _until_certain(command: Command, disks: tuple[Disk, ...]) -> list[Deed]:
    """The deeds that may be the one to do, whatever the files are: up to the first that holds without them."""
    possible: list[Deed] = []
    for deed in command.deeds:
        possible.append(deed)
        if not deed.expect.no_file and admits(deed.expect, disks, ()):
            break
    return possible


def _is_known(anchors: Anchors, files: tuple[File, ...] | None) -> bool:
    return files is not None or not anchors.paths
