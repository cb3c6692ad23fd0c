"""Scripts: one line of harmless characters, and a reply counts only when it is whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from rds_csi.arrays.routeros.errors import GarbageReply, LostReply, NotPermitted, Refused
from rds_csi.arrays.routeros.records import Disk, File
from rds_csi.arrays.routeros.script import (
    MAX_SCRIPT,
    command_script,
    copy_script,
    disks_look,
    facts_script,
    files_look,
    job_script,
    look_script,
)
from rds_csi.arrays.routeros.script_replies import (
    NotUnderstood,
    granted,
    read_facts,
    read_job,
    read_look,
    read_outcome,
)
from rds_csi.errors import Internal, InvalidArgument, ResourceExhausted

NONCE = "0123456789abcdef"
ANCHORS = Anchors(slots=("pvc-1",), nqns=("nqn.2026-11.io.example:a.pvc-1",), paths=("raid10/rds-csi/pvc-1.00.img",))
EVERYTHING = Command(
    ANCHORS,
    (
        Deed(
            Expect(0, no_file=True),
            (
                MakeDirectory("raid10/rds-csi"),
                AddSubvolume("pool-fs", "rds-csi/a", parent="rds-csi/b", read_only=True),
                AddDisk({"type": "file", "slot": "pvc-1"}),
                SetDisk({"comment": "x"}),
            ),
        ),
        Deed(
            Expect(1, disk_id="*2B", comment="c", smaller=4096),
            (RemoveDisk(), RemoveFile("raid10/x"), RemoveSubvolume("pool-fs", "rds-csi/a")),
        ),
    ),
)


def test_a_script_is_one_line_that_ends_with_the_nonce() -> None:
    for script in (
        command_script(EVERYTHING, NONCE),
        disks_look(ANCHORS, NONCE),
        files_look("raid10/rds-csi", NONCE),
        look_script("/disk", "", NONCE),
        facts_script("csi", NONCE),
        job_script(copy_script("a/b", "a/c", EVERYTHING), NONCE),
    ):
        assert script.isascii()
        assert script.isprintable()
        assert script.endswith(f':put "end {NONCE}"')
        assert script.count("{") == script.count("}")
        assert script.count("[") == script.count("]")


def test_the_decision_reads_as_it_was_asked() -> None:
    script = command_script(EVERYTHING, NONCE)
    assert (
        '/disk find where (slot="pvc-1" || nvme-tcp-server-nqn="nqn.2026-11.io.example:a.pvc-1" || '
        'file-path="/raid10/rds-csi/pvc-1.00.img" || file-path="raid10/rds-csi/pvc-1.00.img")' in script
    )
    assert ':if ($n="" && [:len $d]=0 && [:len $f]=0) do={:set n "0";' in script
    assert (
        '[:len $d]=1 && (("" . $i)="*2B" || ("" . $i)="*2b") && $c="c" && $s<4096) '
        'do={:set n "1";/disk set $i nvme-tcp-export="no";/disk remove $i;' in script
    )
    assert "json.no-string-conversion" in script


@pytest.mark.parametrize("bad", ['x" comment="y', "$x", "a b", "a\n", "[/system/reboot]"])
def test_no_path_or_user_gets_into_a_script_unchecked(bad: str) -> None:
    with pytest.raises(InvalidArgument):
        copy_script(bad, "b", Command(ANCHORS, ()))
    with pytest.raises(InvalidArgument):
        copy_script("a", bad, Command(ANCHORS, ()))
    with pytest.raises(InvalidArgument):
        files_look(bad, NONCE)


def test_a_user_whose_name_cannot_stand_in_a_script_has_facts_without_policies() -> None:
    for user in ("csi@example.org", 'x"]', "a b"):
        assert facts_script(user, NONCE) == facts_script("", NONCE)
    assert "policies" in facts_script("csi", NONCE)


def test_what_makes_a_removal_sure_is_looked_at_before_anything_is_removed() -> None:
    removals = (RemoveFile("raid10/b/x", within="raid10/b"), RemoveSubvolume("pool-fs", "b/a", mounted=True))
    script = command_script(Command(ANCHORS, (Deed(Expect(1), (RemoveDisk(), *removals)),)), NONCE)
    assert (
        ':set n "0";:if ([:len [/file find where name="raid10/b"]]=0) do={:error "not there: raid10/b"};'
        ':if ([:len [/disk find where (fs-label="pool-fs" && mounted=true)]]=0) do={:error "not there: pool-fs"};'
        "/disk set $i" in script
    )
    assert script.count("not there:") == 2


def test_a_subvolume_is_added_only_when_its_name_is_free() -> None:
    script = command_script(EVERYTHING, NONCE)
    assert (
        ':if ([:len [/disk/btrfs/subvolume find where name="rds-csi/a"]]>0) do={:error "already have such entry"};'
        '/disk/btrfs/subvolume add fs="pool-fs" name="rds-csi/a"' in script
    )


def test_the_size_is_looked_at_only_when_a_deed_asks_for_it() -> None:
    assert "size]" not in command_script(Command(ANCHORS, (Deed(Expect(1)),)), NONCE)
    assert "[:tonum [/disk get $i size]]" in command_script(Command(ANCHORS, (Deed(Expect(1, smaller=1)),)), NONCE)


def test_a_script_that_the_console_would_cut_is_never_made() -> None:
    long = "x" * (MAX_SCRIPT // 2)
    with pytest.raises(ResourceExhausted):
        command_script(Command(ANCHORS, (Deed(Expect(1, comment=long), (SetDisk({"comment": long}),)),)), NONCE)


@given(st.lists(st.text(alphabet="abz019-._", min_size=1, max_size=6), min_size=1, max_size=3))
def test_a_directory_as_a_pattern_finds_what_is_below_it(parts: list[str]) -> None:
    import re

    if any(part in (".", "..") for part in parts):
        return
    directory = "/".join(parts)
    pattern = files_look(directory, NONCE).split('name~"')[1].split('"')[0]
    assert re.match(pattern, f"{directory}/file")
    assert not re.match(pattern, f"x{directory}/file")
    assert not re.search(r"[^A-Za-z0-9/_.^-]", pattern)


def reply(*lines: str, nonce: str = NONCE) -> str:
    return "".join(f"{line}\n" for line in (*lines, f"end {nonce}"))


DISKS = '[{".id":"*2B","slot":"pvc-1","type":"file","file-path":"/raid10/x.img","size":5}]'
FILES = '[{".id":"**A","name":"raid10/x.img","type":".img file","size":5}]'
DISK = Disk("*2B", slot="pvc-1", type="file", file_path="raid10/x.img", size=5)
FILE = File("**A", "raid10/x.img", ".img file", 5)


def test_an_outcome_is_what_the_device_says_is_there() -> None:
    assert read_outcome(reply("done 0", "disks", DISKS, "files", FILES), NONCE) == Outcome(0, "", (DISK,), (FILE,))
    assert read_outcome(reply("done ", "disks", DISKS, "files", "[]"), NONCE) == Outcome(-1, "", (DISK,))
    assert read_outcome(reply("done", "disks", "[]", "files", "[]"), NONCE) == Outcome(-1)
    assert read_outcome(reply("done 1", "disks", "[]", "files", "[]").replace("\n", "\r\n"), NONCE) == Outcome(1)


def test_a_refused_step_is_an_outcome_with_its_words() -> None:
    told = read_outcome(reply("done 0", "error failure: not enough space", "disks", "[]", "files", "[]"), NONCE)
    assert told == Outcome(0, "failure: not enough space")
    told = read_outcome(reply("done 1", "error a", "b", "disks", DISKS, "files", "[]"), NONCE)
    assert told == Outcome(1, "a\nb", (DISK,))


def test_a_refused_look_means_that_nothing_was_done() -> None:
    with pytest.raises(Refused, match="no such thing") as caught:
        read_outcome(reply("done ", "error no such thing", "disks", "unread no such thing"), NONCE)
    assert caught.value.text == "no such thing"
    with pytest.raises(NotPermitted, match="policies"):
        read_outcome(reply("done ", "error not enough permissions (9)", "disks", "unread x"), NONCE)


def test_a_command_whose_result_cannot_be_read_back_is_a_lost_reply() -> None:
    for lines in (
        ("done 0", "disks", "unread failure: timeout"),
        ("done 0", "disks", DISKS, "files", "unread interrupted"),
        ("done 0", "disks", DISKS[:-2], "files", "[]"),
        ("done 0", "disks", DISKS, "files", "nonsense"),
        ("done x", "disks", "[]", "files", "[]"),
        ("nonsense",),
        (),
    ):
        with pytest.raises(LostReply):
            read_outcome(reply(*lines), NONCE)


def test_every_cut_of_a_reply_is_a_lost_reply() -> None:
    whole = reply("done 0", "error failure: x", "disks", DISKS, "files", FILES)
    for end in range(len(whole) - 1):
        with pytest.raises(LostReply):
            read_outcome(whole[:end], NONCE)


def test_the_reply_to_another_script_is_not_taken_for_ours() -> None:
    with pytest.raises(LostReply):
        read_outcome(reply("done 0", "disks", "[]", "files", "[]", nonce="fedcba9876543210"), NONCE)


@pytest.mark.parametrize(
    "text",
    [
        "syntax error (line 1 column 9)",
        "bad command name onerror (line 1 column 2)",
        "expected end of command (line 1 column 30)",
        "bad parameter file-path (line 1 column 40)",
        "max line length 65535 exceeded!",
    ],
)
def test_a_script_that_the_console_does_not_understand_is_our_error(text: str) -> None:
    with pytest.raises(NotUnderstood) as caught:
        read_outcome(f"{text}\n", NONCE)
    assert text in str(caught.value)
    assert isinstance(caught.value, Internal)


def test_a_missing_policy_is_told_as_such_even_without_an_end() -> None:
    with pytest.raises(NotPermitted):
        read_look("not enough permissions (9)\n", NONCE)


def test_a_look_is_json_or_a_refusal() -> None:
    assert read_look(reply('[{"a":1}]'), NONCE) == [{"a": 1}]
    with pytest.raises(Refused):
        read_look(reply("error failure: x"), NONCE)
    with pytest.raises(GarbageReply):
        read_look(reply("nonsense"), NONCE)
    with pytest.raises(LostReply):
        read_look('[{"a":1}]\n', NONCE)


def test_a_job_is_told_by_its_id() -> None:
    assert read_job(reply("*126"), NONCE) == "*126"
    assert read_job(reply("*1a6"), NONCE) == "*1A6"
    with pytest.raises(LostReply):
        read_job(reply(""), NONCE)
    with pytest.raises(Refused):
        read_job(reply("error failure: x"), NONCE)


def test_facts_are_read_line_by_line() -> None:
    told = read_facts(
        reply(
            "version 7.21.2 (stable)",
            "board RDS2216",
            "architecture arm64",
            "package routeros false ",
            "package rose-storage false false",
            "package container true ",
            "package zerotier false true",
            "policies ssh;read;write;!policy",
        ),
        NONCE,
        "csi",
    )
    assert told.version.numbers == (7, 21, 2)
    assert (told.board, told.architecture, told.user) == ("RDS2216", "arm64", "csi")
    assert told.packages == {"routeros", "rose-storage"}
    assert told.policies == {"ssh", "read", "write"}


def test_policies_that_may_not_be_read_are_none() -> None:
    assert read_facts(reply("version 7.21"), NONCE, "csi").policies == frozenset()
    assert granted("") == frozenset()
    assert granted("ssh,!ftp, read") == {"ssh", "read"}


def test_facts_without_a_version_are_garbage() -> None:
    with pytest.raises(GarbageReply):
        read_facts(reply("board x"), NONCE, "")
