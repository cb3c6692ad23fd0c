"""Values and paths in RouterOS commands: nothing gets in that could mean something, and one path is one text."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.arrays.routeros.values import check_value, escape, normal_path, quote
from rds_csi.errors import InvalidArgument

ALLOWED = string.ascii_letters + string.digits + "._/:,+-"


@given(st.text(alphabet=ALLOWED))
def test_what_is_allowed_is_quoted_as_it_is(text: str) -> None:
    assert quote(text) == f'"{text}"'


@given(st.text(), st.sampled_from([chr(code) for code in range(0x250) if chr(code) not in ALLOWED]), st.text())
def test_every_other_character_is_refused_without_repeating_the_value(head: str, bad: str, tail: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_value(head + bad + tail, "slot")
    assert str(caught.value).startswith("slot has characters")


@pytest.mark.parametrize("text", ["a\n", "\na", "a b", 'a"b', "$x", "a;b", "a\\b", "[a]", "{a}", "é", "a?b", "a\x00"])
def test_whatever_could_break_out_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        quote(text)


def _read_back(literal: str) -> str:
    """A RouterOS string literal as the console reads it, for the escapes that ``escape`` makes."""
    assert literal[0] == literal[-1] == '"'
    out, rest = "", iter(literal[1:-1])
    for character in rest:
        assert character not in '"$?'
        out += next(rest) if character == "\\" else character
    return out


@given(st.text(alphabet=string.printable.replace("\n", "").replace("\r", "").replace("\t", "")))
def test_an_escaped_script_reads_back_as_itself(script: str) -> None:
    assert _read_back(escape(script)) == script


@pytest.mark.parametrize("text", ["raid10/x.img", "/raid10/x.img", "/raid10/x.img/", "raid10/x.img/"])
def test_a_path_of_disk_and_one_of_file_are_the_same(text: str) -> None:
    assert normal_path(text) == "raid10/x.img"


@pytest.mark.parametrize("text", ["", "/", "//", "//a", "a//b", "a//", "./a", "a/..", "../a", "a/./b", "a b", "a\n"])
def test_what_is_no_plain_path_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        normal_path(text)


@given(st.lists(st.text(alphabet=ALLOWED.replace("/", ""), min_size=1).filter(lambda part: part not in (".", ".."))))
def test_the_normal_form_of_a_path_is_its_parts(parts: list[str]) -> None:
    if parts:
        plain = "/".join(parts)
        assert normal_path(plain) == normal_path(f"/{plain}") == normal_path(f"{plain}/") == plain
        assert normal_path(normal_path(f"/{plain}")) == plain


@given(st.text(alphabet=ALLOWED), st.text(alphabet=ALLOWED))
def test_paths_of_one_normal_form_differ_in_outer_slashes_only(one: str, other: str) -> None:
    try:
        same = normal_path(one) == normal_path(other)
    except InvalidArgument:
        return
    assert same == (one.strip("/") == other.strip("/"))
