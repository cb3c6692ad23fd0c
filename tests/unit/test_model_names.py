"""Names, ids, NQNs and paths of requests."""

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.errors import InvalidArgument
from rds_csi.model.names import (
    MAX_ID_LENGTH,
    check_name,
    check_node_id,
    check_nqn,
    id_for_name,
    is_id,
)
from rds_csi.model.paths import check_path

names = st.text(min_size=1, max_size=128)


@given(names)
def test_every_name_gets_a_safe_id(name: str) -> None:
    identifier = id_for_name(name)
    assert is_id(identifier)
    assert len(identifier) <= MAX_ID_LENGTH
    assert id_for_name(name) == identifier


@given(names, names)
def test_different_names_get_different_ids(one: str, other: str) -> None:
    # A safe name is kept, so it can meet another's digest only by building it on purpose.
    if one != other and not (is_id(one) or is_id(other)):
        assert id_for_name(one) != id_for_name(other)


@given(names)
def test_an_id_is_its_own_id(name: str) -> None:
    assert id_for_name(id_for_name(name)) == id_for_name(name)


def test_the_names_of_kubernetes_are_kept() -> None:
    name = "pvc-0b3f9a52-3a0f-4f3c-9f43-0f4f3f6a1c11"
    assert id_for_name(name) == name


def test_names_that_differ_only_in_case_stay_apart() -> None:
    assert id_for_name("Data") != id_for_name("data") != id_for_name("DATA")


@pytest.mark.parametrize("name", ["", "x" * 129, "é" * 65, "a\nb", "a\x00b", "\ud800"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_name(name, "name")


def test_a_name_of_the_maximum_length_is_accepted() -> None:
    assert check_name("x" * 128, "name") == "x" * 128


@pytest.mark.parametrize("node_id", ["", "a b", "a\tb", "x" * 257])
def test_bad_node_ids_are_refused(node_id: str) -> None:
    with pytest.raises(InvalidArgument):
        check_node_id(node_id)


@pytest.mark.parametrize(
    "nqn",
    [
        "nqn.2014-08.org.nvmexpress:uuid:2f0a4a6e-6c55-4d8e-8f6f-1f7f1c6b9f4e",
        "nqn.2000-02.com.mikrotik:pvc-1",
        "nqn.2026-01.io.example:" + "x" * (223 - len("nqn.2026-01.io.example:")),
    ],
)
def test_nvme_qualified_names_are_accepted(nqn: str) -> None:
    assert check_nqn(nqn) == nqn


@pytest.mark.parametrize(
    "nqn", ["", "nqn.", "iqn.2001-01.com:x", "nqn.2026-01.io.example:a b", "nqn.2026-01.x:" + "y" * 223]
)
def test_other_names_are_no_nqns(nqn: str) -> None:
    with pytest.raises(InvalidArgument):
        check_nqn(nqn)


@pytest.mark.parametrize(
    "path", ["", "relative", "/", "//", "/.", "/a/../b", "/..", "/a\nb", "/a\x00", "/" + "x" * 4096, "./a"]
)
def test_bad_paths_are_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match="staging_target_path"):
        check_path(path, "staging_target_path")


@given(st.lists(st.text(alphabet="abc.-_ é", min_size=1, max_size=8), min_size=1, max_size=6))
def test_an_accepted_path_is_normal(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    try:
        checked = check_path(path, "path")
    except InvalidArgument:
        return
    assert checked == posixpath.normpath(checked)
    assert checked.startswith("/")
    assert ".." not in checked.split("/")


def test_a_trailing_slash_is_dropped() -> None:
    assert check_path("/a/b/", "path") == check_path("//a/./b", "path") == "/a/b"
