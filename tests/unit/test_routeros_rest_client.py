"""The client over REST on a session that answers from a script: few requests, and nothing is claimed unconfirmed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from rds_csi.arrays.routeros.commands import (
    AddDisk,
    AddSubvolume,
    Anchors,
    Command,
    Deed,
    Expect,
    MakeDirectory,
    Outcome,
    RemoveDisk,
    RemoveFile,
    RemoveSubvolume,
    SetDisk,
)
from rds_csi.arrays.routeros.errors import BadCredentials, GarbageReply, LostReply, NotPermitted, Refused, Unsent
from rds_csi.arrays.routeros.records import Disk, File
from rds_csi.arrays.routeros.rest_client import RestClient

PATH = "raid10/rds-csi/pvc-1.00.img"
ANCHORS = Anchors(slots=("pvc-1",), nqns=("nqn.a",), paths=(PATH,))
PLAIN = Anchors(slots=("pvc-1",))
ROW: dict[str, Any] = {
    ".id": "*2B",
    "slot": "pvc-1",
    "type": "file",
    "comment": "c",
    "size": "5",
    "file-path": f"/{PATH}",
    "nvme-tcp-export": "true",
}
DISK = Disk("*2B", "pvc-1", "file", "c", 5, PATH, exported=True)
FILE_ROW = {".id": "**A", "name": PATH, "type": ".img file", "size": "5"}
FILE = File("**A", PATH, ".img file", 5)
CREATE = Command(ANCHORS, (Deed(Expect(0, no_file=True), (AddDisk({"type": "file", "slot": "pvc-1"}),)),))
SET = Command(ANCHORS, (Deed(Expect(1, comment="c"), (SetDisk({"comment": "d"}),)),))
DELETE = Command(
    ANCHORS, (Deed(Expect(1, comment="c"), (RemoveDisk(), RemoveFile(PATH))), Deed(Expect(0), (RemoveFile(PATH),)))
)
IDENTIFIER = "missing or invalid resource identifier"
NAMED = "/rest/file/raid10%2Frds-csi%2Fpvc-1.00.img"


@dataclass(frozen=True)
class Answer:
    """A reply as the session gives it."""

    status: int = 200
    json: object = None
    refusal: str = ""


NO = Answer(400, None, IDENTIFIER)
GONE = Answer(204)


class ScriptedSession:
    """Answers each request with the next of what it was given, and keeps what it was asked."""

    def __init__(self, *answers: Answer | Exception | list[Any] | dict[str, Any]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []
        self.bodies: list[Mapping[str, object] | None] = []
        self.closed = False

    async def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
        self.asked.append(f"{method} {path}")
        self.bodies.append(body)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Answer) else Answer(json=answer)

    async def close(self) -> None:
        self.closed = True

    def is_used_up(self) -> bool:
        return not self._answers


async def run(command: Command, *answers: Answer | Exception | list[Any] | dict[str, Any]) -> tuple[Outcome, list[str]]:
    session = ScriptedSession(*answers)
    outcome = await RestClient(session).execute(command)
    assert session.is_used_up()
    return outcome, session.asked


async def test_a_create_looks_twice_and_tells_what_the_device_returned() -> None:
    outcome, asked = await run(CREATE, [], [], Answer(201, ROW))
    assert outcome == Outcome(0, disks=(DISK,), files=(File("", PATH, "", 5),))
    assert asked == ["POST /rest/disk/print", "POST /rest/file/print", "PUT /rest/disk"]


async def test_the_query_is_a_stack_of_exact_matches() -> None:
    session = ScriptedSession([])
    assert await RestClient(session).find_disks(ANCHORS) == ()
    (body,) = session.bodies
    assert body is not None
    assert body[".query"] == [
        *("slot=pvc-1", "nvme-tcp-server-nqn=nqn.a", "#|"),
        *(f"file-path=/{PATH}", "#|", f"file-path={PATH}", "#|"),
    ]
    fields = body[".proplist"]
    assert isinstance(fields, list)
    assert {".id", "comment"} <= set(fields)


async def test_files_are_not_looked_at_when_they_decide_nothing() -> None:
    outcome, asked = await run(CREATE, [ROW])
    assert outcome == Outcome(-1, disks=(DISK,), files=(), files_known=False)
    assert len(asked) == 1
    outcome, _ = await run(SET, [ROW], {**ROW, "comment": "d"})
    assert (outcome.disks[0].comment, outcome.files_known) == ("d", False)
    assert (await run(Command(PLAIN, ()), []))[0] == Outcome(-1)


async def test_a_file_in_the_way_is_told() -> None:
    outcome, _ = await run(CREATE, [], [FILE_ROW])
    assert outcome == Outcome(-1, files=(FILE,))


async def test_a_delete_is_three_requests_and_claims_what_was_confirmed() -> None:
    outcome, asked = await run(DELETE, [ROW], GONE, GONE)
    assert outcome == Outcome(0)
    assert asked == ["POST /rest/disk/print", "DELETE /rest/disk/*2B", f"DELETE {NAMED}"]


async def test_an_exported_disk_that_cannot_be_removed_is_un_exported_first() -> None:
    outcome, asked = await run(DELETE, [ROW], NO, [], [], GONE)
    assert outcome == Outcome(0)
    assert asked[1:4] == ["DELETE /rest/disk/*2B", "POST /rest/disk/set", "POST /rest/disk/remove"]


async def test_a_file_that_has_no_name_for_the_device_is_removed_by_its_id() -> None:
    session = ScriptedSession([], NO, [FILE_ROW], [])
    assert await RestClient(session).execute(DELETE) == Outcome(1)
    assert session.asked[1:] == [f"DELETE {NAMED}", "POST /rest/file/print", "POST /rest/file/remove"]
    assert session.bodies[-1] == {".id": "**A"}


async def test_an_absent_file_is_removed() -> None:
    outcome, asked = await run(DELETE, [], NO, [])
    assert outcome == Outcome(1)
    assert len(asked) == 3


async def test_a_subvolume_that_has_no_name_for_the_device_is_removed_by_its_id() -> None:
    deed = Deed(Expect(0), (RemoveSubvolume("f", "b/x"),))
    rows = [{".id": "*5", "fs": "f", "name": "b/x"}, {".id": "*6", "fs": "other", "name": "b/x"}]
    session = ScriptedSession([], NO, rows, [])
    assert (await RestClient(session).execute(Command(PLAIN, (deed,)))).error == ""
    assert session.asked[1] == "DELETE /rest/disk/btrfs/subvolume/b%2Fx"
    assert session.bodies[-1] == {".id": "*5"}


async def test_the_files_of_a_removed_subvolume_are_gone_and_those_of_a_new_one_are_not_known() -> None:
    nested = Anchors(slots=("a",), paths=("p/b/x/volume.img",))
    remove = Command(nested, (Deed(Expect(0), (RemoveSubvolume("f", "b/x"),)),))
    assert (await run(remove, [], GONE))[0] == Outcome(0)
    add = Command(nested, (Deed(Expect(0), (AddSubvolume("f", "b/x", parent="b/y"),)),))
    assert (await run(add, [], Answer(201, {})))[0] == Outcome(0, files_known=False)


async def test_a_directory_that_is_there_is_fine_and_one_that_cannot_be_made_is_not() -> None:
    command = Command(PLAIN, (Deed(Expect(0), (MakeDirectory("p/b"),)),))
    taken = Answer(400, None, "failure: already have such entry")
    outcome, _ = await run(command, [], taken, [{".id": "*1", "name": "p/b", "type": "directory"}])
    assert outcome == Outcome(0)
    outcome, _ = await run(command, [], Answer(400, None, "failure: x"), [], [])
    assert outcome == Outcome(0, "failure: x")


async def test_a_refused_step_brings_the_truth_and_the_words_of_the_command_itself() -> None:
    no_space = Answer(400, None, "failure: not enough space")
    outcome, asked = await run(SET, [ROW], NO, no_space, [ROW], [FILE_ROW])
    assert outcome == Outcome(0, "failure: not enough space", (DISK,), (FILE,))
    assert asked[1:3] == ["PATCH /rest/disk/*2B", "POST /rest/disk/set"]
    outcome, _ = await run(CREATE, [], [], no_space, [], [FILE_ROW])
    assert outcome == Outcome(0, "failure: not enough space", (), (FILE,))


async def test_a_set_that_only_the_command_itself_can_do_is_read_back() -> None:
    outcome, asked = await run(SET, [ROW], NO, [], {**ROW, "comment": "d"})
    assert outcome.disks[0].comment == "d"
    assert asked[-1] == "GET /rest/disk/*2B"


@pytest.mark.parametrize("error", [Unsent("x"), BadCredentials("x"), NotPermitted("x", text="x"), LostReply("x")])
async def test_as_long_as_nothing_was_changed_an_error_is_told_as_it_is(error: Exception) -> None:
    for answers in ([error], [[ROW], error]):
        with pytest.raises(type(error)):
            await run(SET, *answers)


@pytest.mark.parametrize("error", [Unsent("x"), BadCredentials("x"), LostReply("x"), GarbageReply("x")])
async def test_once_something_was_changed_every_failure_is_a_lost_reply(error: Exception) -> None:
    with pytest.raises(LostReply):
        await run(DELETE, [ROW], GONE, error)


async def test_a_policy_that_is_missing_half_way_is_a_refused_step() -> None:
    outcome, _ = await run(DELETE, [ROW], GONE, NotPermitted("x", text="not enough permissions (9)"), [], [FILE_ROW])
    assert outcome == Outcome(0, "not enough permissions (9)", (), (FILE,))


@pytest.mark.parametrize("error", [Unsent("x"), LostReply("x"), BadCredentials("x"), GarbageReply("x"), Refused("x")])
async def test_a_refusal_without_a_look_afterwards_is_a_lost_reply(error: Exception) -> None:
    with pytest.raises(LostReply):
        await run(CREATE, [], [], NO, error)


@pytest.mark.parametrize("reply", [None, [], {}, {".id": "*1", "type": "file"}, {".id": "x"}, "text"])
async def test_an_odd_reply_to_a_change_is_a_lost_reply(reply: Any) -> None:
    with pytest.raises(LostReply):
        await run(CREATE, [], [], Answer(201, reply))
    with pytest.raises(LostReply):
        await run(SET, [ROW], Answer(200, reply))


@pytest.mark.parametrize("reply", [None, {}, "text", [1], [{"slot": "a"}]])
async def test_an_odd_reply_to_a_look_is_garbage_and_nothing_is_done(reply: Any) -> None:
    with pytest.raises(GarbageReply):
        await run(CREATE, Answer(200, reply))
    with pytest.raises(GarbageReply):
        await RestClient(ScriptedSession(Answer(200, reply))).list_disks()


async def test_a_refused_look_is_told_in_the_devices_words() -> None:
    with pytest.raises(Refused, match="no such command") as caught:
        await RestClient(ScriptedSession(Answer(400, None, "no such command prefix"))).list_subvolumes()
    assert caught.value.text == "no such command prefix"
    with pytest.raises(Refused):
        await RestClient(ScriptedSession(Answer(404))).list_disks()


async def test_a_copy_is_a_script_in_the_background() -> None:
    session = ScriptedSession({"ret": "*126"}, [{".id": "*126"}, {".id": "*127", "owner": "x"}])
    client = RestClient(session)
    assert await client.copy_file("p/a", "p/b", CREATE) == "*126"
    assert await client.running_jobs() == {"*126", "*127"}
    assert session.asked == ["POST /rest/execute", "GET /rest/system/script/job"]
    odd_ones: tuple[object, ...] = ({"ret": "text"}, {}, [])
    for odd in odd_ones:
        with pytest.raises(LostReply):
            await RestClient(ScriptedSession(Answer(200, odd))).copy_file("p/a", "p/b", CREATE)


async def test_facts_leave_out_what_may_not_be_read() -> None:
    resource = {"version": "7.21.2 (stable)", "board-name": "RDS2216", "architecture-name": "arm64"}
    packages = [
        {"name": "routeros", "disabled": "false"},
        {"name": "rose-storage", "disabled": "false", "available": "false"},
        {"name": "container", "disabled": "true"},
        {"name": "zerotier", "available": "true"},
    ]
    group = [{"name": "csi", "policy": "read,write,api,rest-api,!ftp"}]
    session = ScriptedSession(resource, packages, [{"name": "csi", "group": "csi"}], group)
    facts = await RestClient(session, user="csi").facts()
    assert (facts.version.numbers, facts.board, facts.architecture) == ((7, 21, 2), "RDS2216", "arm64")
    assert facts.packages == {"routeros", "rose-storage"}
    assert facts.policies == {"read", "write", "api", "rest-api"}
    assert session.asked[2:] == ["GET /rest/user?name=csi", "GET /rest/user/group?name=csi"]
    session = ScriptedSession(resource, packages, NotPermitted("x", text="x"))
    assert (await RestClient(session, user="csi").facts()).policies == frozenset()
    assert (await RestClient(ScriptedSession(resource, packages)).facts()).policies == frozenset()


async def test_close_closes_the_session() -> None:
    session = ScriptedSession()
    await RestClient(session).close()
    assert session.closed
