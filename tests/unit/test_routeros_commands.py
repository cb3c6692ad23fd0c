"""Guarded commands: which deed is done is decided by what is there, and commands that cannot be are refused."""

from dataclasses import replace

import pytest

from rds_csi.arrays.routeros.commands import (
    AddDisk,
    AddSubvolume,
    Anchors,
    Command,
    Deed,
    Expect,
    MakeDirectory,
    RemoveDisk,
    RemoveFile,
    RemoveSubvolume,
    SetDisk,
    admits,
    decide,
)
from rds_csi.arrays.routeros.records import Disk, File
from rds_csi.errors import InvalidArgument

MINE = Disk("*2B", slot="a", type="file", comment="rds-csi/1/d/c/v:a/x:0", file_path="p/a.img", nqn="nqn.a")
ATTACHED = Disk("*2C", slot="a", type="file", comment="rds-csi/1/d/c/v:a/a:n/x:0", file_path="p/a.img")
FILE = File("*1", "p/a.img")


@pytest.mark.parametrize(
    ("expect", "disks", "files", "holds"),
    [
        (Expect(0), (), (), True),
        (Expect(0), (), (FILE,), True),
        (Expect(0, no_file=True), (), (FILE,), False),
        (Expect(0, no_file=True), (), (), True),
        (Expect(0), (MINE,), (), False),
        (Expect(1), (), (), False),
        (Expect(1), (MINE,), (), True),
        (Expect(1), (MINE, ATTACHED), (), False),
        (Expect(2), (MINE, ATTACHED), (), True),
        (Expect(1, disk_id="*2B"), (MINE,), (), True),
        (Expect(1, disk_id="*2C"), (MINE,), (), False),
        (Expect(1, comment=MINE.comment), (MINE,), (), True),
        (Expect(1, comment=""), (MINE,), (), False),
        (Expect(1, comment=""), (Disk("*1"),), (), True),
        (Expect(1, comment=MINE.comment[:-1]), (MINE,), (), False),
        (Expect(1, smaller=6), (replace(MINE, size=5),), (), True),
        (Expect(1, smaller=5), (replace(MINE, size=5),), (), False),
        (Expect(1, smaller=5), (replace(MINE, size=6),), (), False),
        (Expect(1, comment=MINE.comment, smaller=5), (replace(MINE, size=6),), (), False),
        (Expect(1, no_file=True), (MINE,), (FILE,), False),
    ],
)
def test_an_expectation_holds_only_when_all_of_it_does(
    expect: Expect, disks: tuple[Disk, ...], files: tuple[File, ...], holds: bool
) -> None:
    assert admits(expect, disks, files) == holds


def test_the_first_deed_that_holds_is_done_and_none_else() -> None:
    command = Command(Anchors(slots=("a",)), (Deed(Expect(0)), Deed(Expect(1, disk_id="*2C")), Deed(Expect(1))))
    assert decide(command, (), ()) == 0
    assert decide(command, (ATTACHED,), ()) == 1
    assert decide(command, (MINE,), ()) == 2
    assert decide(command, (MINE, ATTACHED), ()) == -1


def test_anchors_find_a_disk_by_any_of_them() -> None:
    assert Anchors(slots=("a",)).match(MINE)
    assert Anchors(nqns=("nqn.a",), slots=("zz",)).match(MINE)
    assert Anchors(paths=("p/a.img",), slots=("zz",)).match(MINE)
    assert not Anchors(slots=("b",), nqns=("nqn.b",), paths=("p/b.img",)).match(MINE)
    assert not Anchors(slots=("b",), nqns=("nqn.b",)).match(Disk("*1"))


def test_anchors_that_find_nothing_or_everything_cannot_be_made() -> None:
    for slots, paths in (((), ()), (("",), ()), (("a",), ("",))):
        with pytest.raises(ValueError, match="anchors"):
            Anchors(slots=slots, paths=paths)


@pytest.mark.parametrize("steps", [(RemoveDisk(),), (SetDisk({}),), (RemoveFile("a"), SetDisk({}))])
def test_a_step_cannot_speak_of_a_disk_that_is_not_there(steps: tuple[SetDisk | RemoveDisk | RemoveFile, ...]) -> None:
    with pytest.raises(ValueError, match="not there"):
        Deed(Expect(0), steps)
    Deed(Expect(1), steps)


def test_a_disk_is_there_once_it_was_added_and_until_it_is_removed() -> None:
    Deed(Expect(0), (AddDisk({}), SetDisk({}), RemoveDisk()))
    with pytest.raises(ValueError, match="not there"):
        Deed(Expect(1), (RemoveDisk(), SetDisk({})))


def test_an_expectation_that_asks_of_no_disk_or_of_several_cannot_be_made() -> None:
    for disks in (0, 2):
        with pytest.raises(ValueError, match="cannot be"):
            Expect(disks, comment="x")
        with pytest.raises(ValueError, match="cannot be"):
            Expect(disks, smaller=1)
    with pytest.raises(ValueError, match="cannot be"):
        Expect(1, smaller=-1)
    with pytest.raises(ValueError, match="no_file"):
        Command(Anchors(slots=("a",)), (Deed(Expect(0, no_file=True)),))


@pytest.mark.parametrize("bad", ['x" comment="y', "$x", "a b", "a\n", "[/system/reboot]", "é"])
def test_no_text_that_could_mean_something_gets_into_a_command(bad: str) -> None:
    anchors: tuple[dict[str, tuple[str, ...]], ...] = ({"slots": (bad,)}, {"nqns": (bad,)}, {"paths": (bad,)})
    for one in anchors:
        with pytest.raises(InvalidArgument):
            Anchors(**one)
    for disk_id, comment in ((bad, None), ("", bad)):
        with pytest.raises(InvalidArgument):
            Expect(1, disk_id, comment)
    for step in (
        AddDisk({"slot": bad}),
        AddDisk({bad: "x"}),
        SetDisk({"comment": bad}),
        MakeDirectory(bad),
        RemoveFile(bad),
        AddSubvolume(bad, "n"),
        AddSubvolume("f", bad),
        AddSubvolume("f", "n", parent=bad),
        RemoveSubvolume(bad, "n"),
        RemoveSubvolume("f", bad),
    ):
        with pytest.raises(InvalidArgument):
            Deed(Expect(1), (step,))


def test_a_path_that_is_not_normal_finds_nothing_and_is_refused() -> None:
    for path in ("/p/a.img", "p/a.img/", "p//a.img", "p/../a.img"):
        with pytest.raises(InvalidArgument):
            Anchors(paths=(path,))
