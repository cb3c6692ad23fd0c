"""Sizes and capacity ranges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.errors import InvalidArgument, OutOfRange
from rds_csi.model.sizes import GIB, INT64_MAX, MIB, SizeRange, round_up

sizes = st.integers(min_value=1, max_value=INT64_MAX)
granularities = st.sampled_from([1, 512, 4096, MIB, 4 * MIB])


@given(sizes, granularities)
def test_rounding_goes_up_by_less_than_one_granule(size: int, granularity: int) -> None:
    rounded = round_up(size, granularity)
    assert rounded % granularity == 0
    assert 0 <= rounded - size < granularity


@given(sizes, sizes, granularities)
def test_a_chosen_size_lies_in_the_range(required: int, limit: int, granularity: int) -> None:
    if required > limit:
        required, limit = limit, required
    wanted = SizeRange(required, limit)
    try:
        size = wanted.choose(granularity=granularity, maximum=INT64_MAX)
    except OutOfRange:
        assert round_up(required, granularity) > min(limit, INT64_MAX)
    else:
        assert wanted.admits(size)
        assert size % granularity == 0


def test_no_wish_gives_the_default() -> None:
    assert SizeRange().choose(granularity=MIB) == GIB


def test_a_limit_below_the_default_is_kept() -> None:
    assert SizeRange(limit=10 * MIB).choose(granularity=MIB) == 10 * MIB


def test_odd_sizes_are_rounded_up_not_down() -> None:
    # The Go driver made 1 TiB of 1.5 TiB (lessons, L1).
    assert SizeRange(required=3 * GIB // 2 + 1).choose(granularity=MIB) == 3 * GIB // 2 + MIB


@pytest.mark.parametrize(("required", "limit"), [(-1, 0), (0, -1), (2, 1)])
def test_contradictory_ranges_are_refused(required: int, limit: int) -> None:
    with pytest.raises(InvalidArgument):
        SizeRange(required, limit)


def test_sizes_near_the_end_of_int64_are_out_of_range() -> None:
    with pytest.raises(OutOfRange):
        SizeRange(required=INT64_MAX).choose(granularity=MIB)


def test_a_limit_between_two_granules_is_out_of_range() -> None:
    with pytest.raises(OutOfRange, match="multiple of 1048576"):
        SizeRange(required=MIB + 1, limit=2 * MIB - 1).choose(granularity=MIB)
