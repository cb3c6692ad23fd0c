"""Doing the steps of a command over REST, and telling what they left by what the requests returned."""

from collections.abc import Iterable, Mapping

from rds_csi.arrays.routeros.client import Session
from rds_csi.arrays.routeros.commands import (
    AddDisk,
    AddSubvolume,
    Anchors,
    MakeDirectory,
    RemoveDisk,
    RemoveFile,
    RemoveSubvolume,
    SetDisk,
    Step,
)
from rds_csi.arrays.routeros.records import Disk, File
from rds_csi.arrays.routeros.replies import parse_disks
from rds_csi.arrays.routeros.rest_looks import (
    DISK,
    FILE,
    SUBVOLUME,
    ask,
    find_files,
    find_subvolumes,
    has_filesystem,
    item_path,
    refused,
)
from rds_csi.arrays.routeros.script import AWAY, subvolume_properties
from rds_csi.arrays.routeros.values import normal_path
from rds_csi.errors import Internal


class StepRefused(Exception):
    """RouterOS refused a step; the text is its own."""


class Steps:
    """One deed in the doing. ``disks`` is what there is by now; ``wrote`` says whether anything was changed."""

    def __init__(self, session: Session, disks: Iterable[Disk]) -> None:
        self._session = session
        self.disks = {disk.id: disk for disk in disks}
        self.wrote = False
        # The one disk that the steps speak of.
        self._current = next(iter(self.disks), "")
        # What the steps have made of files: None for one that is gone.
        self._files: dict[str, File | None] = {}
        self._gone_below: list[str] = []

    async def do(self, step: Step) -> None:
        """One step; StepRefused in RouterOS's words. Whatever else fails is raised as the session raises it."""
        match step:
            case AddDisk(properties):
                await self._add_disk(properties)
            case SetDisk(properties):
                await self._set_disk(properties)
            case RemoveDisk():
                await self._remove_disk()
            case MakeDirectory(path):
                await self._make_directory(path)
            case RemoveFile(path, within):
                await self._remove_file(path, within)
            case AddSubvolume():
                await self._change("PUT", SUBVOLUME, subvolume_properties(step))
            case RemoveSubvolume():
                await self._remove_subvolume(step)

    def files(self, anchors: Anchors, looked: tuple[File, ...] | None) -> tuple[File, ...] | None:
        """The files at the anchors' paths by now; None when that is not known of every one. ``looked`` is what was
        there before the steps, None when nobody looked."""
        before = {file.name: file for file in looked or ()}
        now: list[File] = []
        for path in anchors.paths:
            file = self._files.get(path, before.get(path))
            gone = any(f"/{name}/" in f"/{path}" for name in self._gone_below)
            if file is not None and not gone:
                now.append(file)
            elif not gone and path not in self._files and looked is None:
                return None
        return tuple(now)

    async def _try(self, method: str, path: str, body: Mapping[str, object] | None = None) -> tuple[object, str]:
        """What a change returned, and RouterOS's words when it refused it."""
        reply = await self._session.request(method, path, body)
        words = refused(reply)
        self.wrote = self.wrote or not words
        return reply.json, words

    async def _change(
        self, method: str, path: str, properties: Mapping[str, str] | None = None, item_id: str = ""
    ) -> object:
        """What a change returned; ``item_id`` names the item of a command that is sent with POST."""
        item = {".id": item_id} if item_id else {}
        body = None if properties is None else {**item, **properties}
        returned, words = await self._try(method, path, body)
        if words:
            raise StepRefused(words)
        return returned

    async def _add_disk(self, properties: Mapping[str, str]) -> None:
        (disk,) = parse_disks([await self._change("PUT", DISK, properties)])
        self.disks[disk.id] = disk
        self._current = disk.id
        if disk.type == "file":
            self._files[disk.file_path] = File("", disk.file_path, "", disk.size)

    async def _set_disk(self, properties: Mapping[str, str]) -> None:
        disk_id = self._one()
        returned, words = await self._try("PATCH", item_path(DISK, disk_id), properties)
        if words:
            # PATCH has the same words for every refusal (facts, 4.1); the command itself says what is wrong.
            await self._change("POST", f"{DISK}/set", {**properties}, disk_id)
            returned = await ask(self._session, "GET", item_path(DISK, disk_id))
        (disk,) = parse_disks([returned])
        self.disks[disk.id] = disk

    async def _remove_disk(self) -> None:
        disk_id = self._one()
        _, words = await self._try("DELETE", item_path(DISK, disk_id))
        if words:
            # Whether an exported disk can be removed is not known of every version: then its export goes first.
            await self._change("POST", f"{DISK}/set", {"nvme-tcp-export": "no"}, disk_id)
            await self._change("POST", f"{DISK}/remove", {}, disk_id)
        del self.disks[disk_id]
        self._current = ""

    async def _make_directory(self, path: str) -> None:
        _, words = await self._try("PUT", FILE, {"name": normal_path(path), "type": "directory"})
        if words and not await find_files(self._session, (path,)):
            raise StepRefused(words)

    async def _remove_file(self, path: str, within: str) -> None:
        """By name, which takes one request; where that is refused the file is looked up, and removed by its id."""
        _, words = await self._try("DELETE", item_path(FILE, normal_path(path)))
        if words:
            found = await find_files(self._session, (path, *filter(None, [within])))
            if within and all(file.name != within for file in found):
                raise StepRefused(f"{AWAY} {within}")
            for file in found:
                if file.name == path:
                    await self._change("POST", f"{FILE}/remove", {}, file.id)
        self._files[path] = None

    async def _remove_subvolume(self, step: RemoveSubvolume) -> None:
        """By name, as for files. That a subvolume can be named so is not verified on a device (facts, 8.14); the
        filesystem cannot be, but a name of ours has a proof in it."""
        _, words = await self._try("DELETE", item_path(SUBVOLUME, normal_path(step.name)))
        if words:
            found = await find_subvolumes(self._session, step.filesystem, step.name)
            for subvolume in found:
                await self._change("POST", f"{SUBVOLUME}/remove", {}, subvolume.id)
            if step.mounted and not found and not await has_filesystem(self._session, step.filesystem):
                raise StepRefused(f"{AWAY} {step.filesystem}")
        self._gone_below.append(step.name)

    def _one(self) -> str:
        if not self._current:
            raise Internal("a step speaks of a disk, and there is none")
        return self._current
