"""Device nodes: what is absent, and what could not be looked at."""

import errno
from pathlib import Path

import pytest

from rds_csi.blockdev.nodes import BlockNodes
from rds_csi.errors import FailedPrecondition, ResourceExhausted, Unavailable
from rds_csi.model.oserrors import as_driver_error, as_look_error


def test_a_missing_node_is_no_device_and_claimed_by_nobody(tmp_path: Path) -> None:
    path = str(tmp_path / "absent")
    assert BlockNodes().number_of(path) is None
    assert not BlockNodes().is_claimed(path)


def test_a_node_that_cannot_be_looked_at_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "node"
    path.symlink_to(path)
    with pytest.raises(OSError, match="Too many levels"):
        BlockNodes().number_of(str(path))
    with pytest.raises(OSError, match="Too many levels"):
        BlockNodes().is_claimed(str(path))


def test_a_node_that_runs_out_of_something_is_told_apart_from_a_device_that_is_away() -> None:
    assert isinstance(as_look_error("/dev/x", OSError(errno.EMFILE, "")), ResourceExhausted)
    assert isinstance(as_look_error("/dev/x", OSError(errno.EIO, "")), Unavailable)
    assert isinstance(as_look_error("/dev/x", OSError(errno.EACCES, "")), Unavailable)
    assert isinstance(as_driver_error("/dev/x", OSError(errno.EACCES, "")), FailedPrecondition)
