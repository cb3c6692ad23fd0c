"""The files of ``rds-csi orphans``: handles in use, what is to be deleted, and how old a list may be."""

import os
from pathlib import Path

import pytest

from rds_csi.commands.orphan_decision import InUse
from rds_csi.commands.orphan_lists import FRESH_SECONDS, in_use_source, parse_in_use, parse_list, why_stale
from rds_csi.errors import ConfigurationError
from rds_csi.workers import Workers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n b # it\n\n# c\n", InUse(frozenset({"a", "b"}))),
        ("a\ns:x\n", InUse(frozenset({"a"}), frozenset({"x"}))),
        ("a\ns:\n", InUse(frozenset({"a"}), frozenset())),
        ("s:\n", InUse(frozenset(), frozenset())),
        ("a\ns: none\n", InUse(frozenset({"a"}), frozenset(), no_snapshots=True)),
        ("a\ns:none\n", InUse(frozenset({"a"}), frozenset({"none"}))),
        ("# none\n", InUse(frozenset(), None, no_volumes=True)),
        ("#none\ns: none", InUse(frozenset(), frozenset(), no_volumes=True, no_snapshots=True)),
    ],
)
def test_handles_are_read_a_line_each_and_only_plain_words_say_that_there_are_none(text: str, expected: InUse) -> None:
    assert parse_in_use(text) == expected


@pytest.mark.parametrize("text", ["", "\n \n", "# made by a script\n"])
def test_a_list_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        parse_in_use(text)


@pytest.mark.parametrize("text", ["# none\na\n", "a\ns: none\ns:x\n"])
def test_a_list_that_says_none_and_names_one_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="names some"):
        parse_in_use(text)


def test_what_is_to_be_deleted_is_read_once_each() -> None:
    assert parse_list("volume/a\n# b\nvolume/a\nleftover/raid10/x.img\n") == ("volume/a", "leftover/raid10/x.img")
    assert parse_list("fast:volume/a\n", ("fast", "slow")) == ("fast:volume/a",)


@pytest.mark.parametrize("line", ["pvc-1", "volume/", "disk/a", "fast:volume/a", "/volume/a"])
def test_a_line_that_is_no_id_of_the_report_is_refused(line: str) -> None:
    with pytest.raises(ConfigurationError, match="no id of the report"):
        parse_list(f"volume/b\n{line}\n")


@pytest.mark.parametrize("line", ["volume/a", "fats:volume/a", "fast:pvc-1"])
def test_with_several_arrays_an_id_without_its_array_is_refused(line: str) -> None:
    with pytest.raises(ConfigurationError, match="fast, slow"):
        parse_list(line, ("fast", "slow"))


def test_a_list_is_fresh_for_a_quarter_of_an_hour() -> None:
    assert why_stale(1000.0, 1000.0 + FRESH_SECONDS) == ""
    assert why_stale(1000.0, 1001.0 + FRESH_SECONDS)
    assert why_stale(1000.0, 900.0)


async def test_a_list_is_as_old_as_its_file(tmp_path: Path) -> None:
    path = tmp_path / "in-use"
    path.write_text("a\n")
    os.utime(path, (5.0, 5.0))
    source = in_use_source(str(path), Workers(limit=2))
    assert (await source()).made == 5.0
    path.write_text("b\n")
    assert (await source()).in_use == InUse(frozenset({"b"}))
