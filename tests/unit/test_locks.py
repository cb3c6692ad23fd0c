"""One operation per volume at a time."""

import pytest

from rds_csi.errors import Aborted
from rds_csi.locks import OperationLocks


def test_a_second_operation_on_the_same_volume_is_aborted_by_name() -> None:
    locks = OperationLocks()
    with (
        locks.hold("NodeStageVolume", "v1"),
        pytest.raises(Aborted, match="NodeStageVolume is running for v1"),
        locks.hold("NodeUnstageVolume", "v1"),
    ):
        pass


def test_other_volumes_do_not_wait() -> None:
    locks = OperationLocks()
    with locks.hold("stage", "v1"), locks.hold("stage", "v2"):
        assert locks.running() == (("v1", "stage"), ("v2", "stage"))


def test_nothing_is_held_after_the_end_or_a_failure() -> None:
    locks = OperationLocks()
    with pytest.raises(ValueError, match="broken"), locks.hold("stage", "v1", "v2"):
        raise ValueError("broken")
    assert not locks.is_held("v1")
    assert locks.running() == ()


def test_all_keys_or_none_are_taken() -> None:
    locks = OperationLocks()
    with locks.hold("stage", "v2"):
        with pytest.raises(Aborted), locks.hold("group", "v1", "v2"):
            pass
        assert not locks.is_held("v1")
        assert locks.is_held("v2")


def test_one_key_given_twice_is_one_key() -> None:
    locks = OperationLocks()
    with locks.hold("clone", "v1", "v1"):
        assert locks.is_held("v1")
    assert not locks.is_held("v1")
