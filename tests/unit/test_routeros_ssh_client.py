"""The client over SSH on a console that answers from a script: one exec for everything, and nothing is made up."""

from collections.abc import Callable

import pytest

from rds_csi.arrays.routeros.commands import AddDisk, Anchors, Command, Deed, Expect, Outcome
from rds_csi.arrays.routeros.errors import GarbageReply, LostReply, NotPermitted, Refused, Unsent
from rds_csi.arrays.routeros.records import Disk, File, Subvolume
from rds_csi.arrays.routeros.script_replies import NotUnderstood
from rds_csi.arrays.routeros.ssh_client import ANSWER_LIMIT, LIST_LIMIT, SshClient

ANCHORS = Anchors(slots=("pvc-1",), paths=("raid10/rds-csi/pvc-1.00.img",))
CREATE = Command(ANCHORS, (Deed(Expect(0, no_file=True), (AddDisk({"type": "file", "slot": "pvc-1"}),)),))
END = "end n1\n"

Answer = str | Exception


class ScriptedConsole:
    """Answers each exec with the next of what it was given, and keeps what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.scripts: list[str] = []
        self.limits: list[int] = []
        self.timeouts: list[float] = []
        self.whole: list[bool] = []
        self.closed = False

    async def run(self, script: str, *, timeout: float = 1.0, output_limit: int = 1, whole: bool = False) -> str:
        self.scripts.append(script)
        self.timeouts.append(timeout)
        self.whole.append(whole)
        self.limits.append(output_limit)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        self.closed = True


def client(console: ScriptedConsole, nonce: Callable[[], str] = lambda: "n1") -> SshClient:
    return SshClient(console, user="csi", nonce=nonce)


async def test_a_command_is_one_exec_and_its_outcome_is_what_the_device_tells() -> None:
    console = ScriptedConsole(f'done 0\ndisks\n[{{".id":"*2B","slot":"pvc-1"}}]\nfiles\n[]\n{END}')
    assert await client(console).execute(CREATE) == Outcome(0, disks=(Disk("*2B", slot="pvc-1"),))
    assert len(console.scripts) == 1
    assert console.limits == [ANSWER_LIMIT]
    assert 0 < console.timeouts[0] <= 60


async def test_every_exec_has_a_nonce_of_its_own() -> None:
    console = ScriptedConsole("", "")
    fresh = SshClient(console)
    for _ in range(2):
        with pytest.raises(LostReply):
            await fresh.execute(CREATE)
    endings = {script[-40:] for script in console.scripts}
    assert len(endings) == 2


@pytest.mark.parametrize("error", [Unsent("x"), LostReply("x"), GarbageReply("x")])
async def test_what_the_console_raises_is_not_changed(error: Exception) -> None:
    with pytest.raises(type(error)):
        await client(ScriptedConsole(error)).execute(CREATE)


async def test_lists_are_one_exec_with_room_for_a_full_device() -> None:
    console = ScriptedConsole(
        f'[{{".id":"*1","slot":"raid10","type":"raid"}}]\n{END}',
        f'[{{".id":"*3","fs":"f","name":"rds-csi/a"}}]\n{END}',
        f'[{{".id":"*126","owner":"csi"}},{{".id":"*127"}}]\n{END}',
    )
    device = client(console)
    assert await device.list_disks() == (Disk("*1", slot="raid10", type="raid"),)
    assert await device.list_subvolumes() == (Subvolume("*3", "f", "rds-csi/a"),)
    assert await device.running_jobs() == {"*126", "*127"}
    assert set(console.limits) == {LIST_LIMIT}
    assert [script.split("[")[2].split("]")[0] for script in console.scripts] == [
        "/disk print detail as-value",
        "/disk/btrfs/subvolume print detail as-value",
        "/system/script/job print detail as-value",
    ]


async def test_files_that_the_pattern_found_by_chance_are_left_out() -> None:
    names = ("a.b/c/x.img", "aXb/c/x.img", "a.b/c", "a.b/cd/x")
    rows = ",".join(f'{{".id":"*1","name":"{name}"}}' for name in names)
    console = ScriptedConsole(f"[{rows}]\n{END}")
    assert await client(console).list_files("a.b/c") == (File("*1", "a.b/c/x.img"),)


async def test_facts_are_one_exec() -> None:
    console = ScriptedConsole(f"version 7.21.2 (stable)\nboard RDS2216\npackage rose-storage false \n{END}")
    facts = await client(console).facts()
    assert facts.version.is_at_least(7, 21)
    assert facts.packages == {"rose-storage"}
    assert facts.user == "csi"
    assert '"csi"' in console.scripts[0]


async def test_without_a_user_no_policies_are_asked_for() -> None:
    console = ScriptedConsole(f"version 7.21\n{END}")
    assert (await SshClient(console, nonce=lambda: "n1").facts()).policies == frozenset()
    assert "/user" not in console.scripts[0]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (f"error std failure: timeout (13)\n{END}", Refused),
        (f"error not enough permissions (9)\n{END}", NotPermitted),
        ("syntax error (line 1 column 2)\n", NotUnderstood),
    ],
)
async def test_a_look_that_is_refused_is_told_and_never_replaced_by_one_that_sees_less(
    reply: str, expected: type[Refused]
) -> None:
    # What is printed next is what a look by slot alone would find of a disk that was renamed: nothing.
    console = ScriptedConsole(reply, END)
    with pytest.raises(expected):
        await client(console).find_disks(ANCHORS)
    assert len(console.scripts) == 1


async def test_a_script_that_is_not_understood_has_done_nothing_and_names_the_place() -> None:
    with pytest.raises(NotUnderstood, match=r"line 1 column 77"):
        await client(ScriptedConsole("bad parameter nvme-tcp-server-nqn (line 1 column 77)\n")).execute(CREATE)


async def test_a_copy_is_a_job_on_the_device() -> None:
    console = ScriptedConsole(f"*126\n{END}")
    assert await client(console).copy_file("raid10/a.img", "raid10/b.img", CREATE) == "*126"
    (script,) = console.scripts
    assert '/file copy [/file find where name=\\"raid10/a.img\\"] name=\\"raid10/b.img\\"' in script
    with pytest.raises(Refused):
        await client(ScriptedConsole(f"error failure: x\n{END}")).copy_file("a/a", "a/b", CREATE)


async def test_what_writes_is_not_cut_off_and_looks_are() -> None:
    console = ScriptedConsole(f"done 0\ndisks\n[]\nfiles\n[]\n{END}", f"*126\n{END}", f"[]\n{END}")
    device = client(console)
    await device.execute(CREATE)
    await device.copy_file("raid10/a.img", "raid10/b.img", CREATE)
    await device.list_disks()
    assert console.whole == [True, True, False]


async def test_close_closes_the_console() -> None:
    console = ScriptedConsole()
    await client(console).close()
    assert console.closed
