"""Pages: tokens that survive what comes and goes between two of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.errors import Aborted, InvalidArgument
from rds_csi.services.paging import KeptListing, paginate, token_after

IDS = st.lists(st.from_regex(r"[a-z0-9]{1,12}", fullmatch=True), unique=True, max_size=30)


def page(entries: list[str], limit: int = 0, token: str = "") -> tuple[list[str], str]:
    return paginate(entries, lambda entry: entry, kind="volumes", max_entries=limit, token=token)


@given(IDS, st.integers(1, 7))
def test_pages_together_are_the_whole_listing(entries: list[str], limit: int) -> None:
    seen: list[str] = []
    token = ""
    while True:
        got, token = page(entries, limit, token)
        assert len(got) <= limit
        seen += got
        if not token:
            break
    assert seen == sorted(entries)


@given(IDS, st.integers(1, 7), st.data())
def test_deletions_between_pages_hide_and_repeat_nothing_else(
    entries: list[str], limit: int, data: st.DataObject
) -> None:
    first, token = page(entries, limit)
    if not token:
        return
    deleted = set(data.draw(st.lists(st.sampled_from(entries), unique=True)))
    rest, _ = page([entry for entry in entries if entry not in deleted], 0, token)
    assert rest == [entry for entry in sorted(entries) if entry not in deleted and entry not in first]


def test_no_token_follows_the_last_page() -> None:
    assert page(["a", "b"], 2) == (["a", "b"], "")


@pytest.mark.parametrize("token", ["invalid-token", "dm9sdW1lczo=", "é", "====", token_after("snapshots", "a"), "\x00"])
def test_a_token_of_something_else_is_aborted(token: str) -> None:
    with pytest.raises(Aborted):
        page(["a", "b"], 1, token)


def test_negative_max_entries_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="negative"):
        page(["a"], -1)


class Looks:
    """An array's listing that counts how often it was looked at."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> list[int]:
        self.count += 1
        return [self.count]


async def test_the_pages_of_one_listing_share_one_look_and_a_first_page_looks_anew() -> None:
    looks = Looks()
    kept = KeptListing(looks)
    assert [await kept.entries(token) for token in ("", "second", "third")] == [[1], [1], [1]]
    assert await kept.entries("") == [2]
    kept.forget()
    assert (await kept.entries("later"), looks.count) == ([3], 3)
    kept.forget()


async def test_a_look_that_fails_is_not_kept_for_the_next_page() -> None:
    answers: list[list[int] | Aborted] = [Aborted("away"), [7]]

    async def read() -> list[int]:
        answer = answers.pop(0)
        if isinstance(answer, Aborted):
            raise answer
        return answer

    kept = KeptListing(read)
    with pytest.raises(Aborted):
        await kept.entries("")
    assert await kept.entries("second") == [7]
    kept.forget()
