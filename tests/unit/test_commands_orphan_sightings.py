"""How long something is an orphan: only time that has passed for certain, whatever became of the clocks."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.commands import orphan_sightings
from rds_csi.commands.orphan_sightings import Now, Sighting, Sightings, passed

START = 1_800_000_000.0
HOUR = 3600.0


def test_sightings_survive_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "orphans.json")
    sightings = Sightings({"volume/a": Sighting("*1", Now(1.5, 2.5, "boot"), 3.5, 4.5)}, frozenset({"a", "b"}))
    orphan_sightings.write(path, sightings)
    assert orphan_sightings.read(path) == sightings


@pytest.mark.parametrize(
    ("before", "after", "seconds"),
    [
        (Now(START, 100, "1"), Now(START + 50, 150, "1"), 50),
        (Now(START, 100, "1"), Now(START + 9999, 150, "1"), 50),
        (Now(START, 100, "1"), Now(START - 9999, 150, "1"), 0),
        # Over a boot: what this boot is old, and never by a clock that was not set.
        (Now(START, 100, "1"), Now(START + 9999, 60, "2"), 60),
        (Now(START, 9999, "1"), Now(START + 30, 60, "2"), 30),
        (Now(0, 100, "1"), Now(START, 9999, "2"), 0),
        (Now(START, 100, "1"), Now(5, 9999, "2"), 0),
        # Nobody knows the boot: it may be the same.
        (Now(START, 100, ""), Now(START + 9999, 150, ""), 50),
        (Now(START, 100, ""), Now(START + 9999, 20, ""), 20),
    ],
)
def test_only_what_has_passed_for_certain_counts(before: Now, after: Now, seconds: float) -> None:
    assert passed(before, after) == seconds


def test_what_was_proven_before_a_boot_stays_proven() -> None:
    seen = Sightings().updated({"volume/a": "*1"}, (), Now(START, 0, "1"))
    seen = seen.updated({"volume/a": "*1"}, (), Now(START + 5 * HOUR, 5 * HOUR, "1"))
    seen = seen.updated({"volume/a": "*1"}, (), Now(START + 50 * HOUR, 1 * HOUR, "2"))
    known = seen.of("volume/a", "*1")
    assert known is not None
    assert known.age(Now(START + 51 * HOUR, 2 * HOUR, "2")) == 7 * HOUR


@given(
    st.lists(
        st.tuples(st.floats(0, 10 * HOUR), st.booleans(), st.floats(-1e9, 1e9), st.floats(0, 60)),
        min_size=1,
        max_size=12,
    )
)
def test_no_clock_makes_it_older_than_it_is(steps: list[tuple[float, bool, float, float]]) -> None:
    true, booted, boot = 0.0, -1000.0, 1
    seen = Sightings().updated({"k": "i"}, (), Now(START, 1000.0, "boot-1"))
    for passing, reboots, offset, up in steps:
        true += passing
        if reboots:
            boot += 1
            true += up
            booted = true - up
        moment = Now(START + true + offset, true - booted, f"boot-{boot}")
        known = seen.of("k", "i")
        assert known is not None
        assert known.age(moment) <= true + 1e-3
        seen = seen.updated({"k": "i"}, (), moment)


def test_an_older_list_begins_anew_and_what_was_not_seen_is_kept() -> None:
    first, later = Now(START, 0, "1"), Now(START + HOUR, HOUR, "1")
    seen = Sightings().updated({"a:volume/x": "1", "b:volume/y": "1"}, (), first, list_time=100.0)
    seen = seen.updated({"a:volume/x": "1"}, (), later, list_time=50.0, unseen=lambda key: key.startswith("b:"))
    mine, other = seen.of("a:volume/x", "1"), seen.of("b:volume/y", "1")
    assert mine is not None
    assert other is not None
    assert mine == Sighting("1", later, 0.0, 50.0)
    assert other == Sighting("1", first, 0.0, 100.0)
