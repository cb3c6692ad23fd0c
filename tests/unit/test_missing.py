"""A test whose machine lacks something is skipped by hand, and fails in CI."""

import pytest

from tests.support.missing import give_up


def test_what_is_missing_fails_in_ci() -> None:
    with pytest.raises(pytest.fail.Exception, match="no loop devices"):
        give_up("no loop devices", {"CI": "true"})


def test_what_is_missing_skips_elsewhere() -> None:
    with pytest.raises(pytest.skip.Exception, match="no loop devices"):
        give_up("no loop devices", {})
