"""What the machines of the kernel lane share among themselves."""

import pytest

from tests.vm.lane import HALVES, ROOT, TESTS, Part


def test_the_halves_hold_every_test_file_once() -> None:
    there = [str(path.relative_to(ROOT)) for path in (ROOT / TESTS).glob("test_*.py")]
    assert sorted(file for half in HALVES for file in half.files()) == sorted(there)
    assert all(half.files() for half in HALVES)


def test_a_part_is_told_as_it_is_read() -> None:
    assert str(Part.parse("2/3")) == "2/3"


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no part"):
        Part.parse(text)
