"""One operation per volume at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from rds_csi import progress
from rds_csi.errors import Aborted, ConfigurationError
from rds_csi.locks import LockFile, OperationLocks


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
        assert [(item.key, item.operation) for item in locks.running()] == [("v1", "stage"), ("v2", "stage")]


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


def test_a_running_operation_tells_how_far_it_is() -> None:
    locks = OperationLocks()
    progress.begin("NodeStageVolume")
    with locks.hold("stage", "v1"):
        progress.note("connecting 192.0.2.1:4420", attempt=2)
        (running,) = locks.running()
        assert running.progress.subject == "v1"
        assert running.progress.describe() == "connecting 192.0.2.1:4420, attempt 2"
        assert running.progress.seconds >= 0


# Takes a key of a lock file and tells whether it got it.
TAKE = "import sys; from rds_csi.locks import LockFile; print(LockFile(sys.argv[1]).take(sys.argv[2]))"


def taken_elsewhere(path: Path, key: str) -> bool:
    done = subprocess.run([sys.executable, "-c", TAKE, str(path), key], capture_output=True, text=True, timeout=60)
    return done.stdout == "True\n"


def test_another_process_is_kept_away_from_a_key_that_is_held(tmp_path: Path) -> None:
    path = tmp_path / "locks"
    shared = LockFile(str(path))
    locks = OperationLocks(shared)
    with locks.hold("stage", "v1", "nqn.2026-01.io.example:v1"):
        assert not taken_elsewhere(path, "v1")
        assert not taken_elsewhere(path, "nqn.2026-01.io.example:v1")
        assert taken_elsewhere(path, "v2")
    assert taken_elsewhere(path, "v1")
    shared.close()


def test_a_key_that_another_process_holds_is_aborted_and_nothing_stays_held(tmp_path: Path) -> None:
    path = tmp_path / "locks"
    code = f"{TAKE}; sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path), "v1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        shared = LockFile(str(path))
        locks = OperationLocks(shared)
        with pytest.raises(Aborted, match="another rds-csi process"), locks.hold("stage", "v2", "v1"):
            pass
        assert locks.running() == ()
        assert taken_elsewhere(path, "v2")
        other.communicate(timeout=60)
    with locks.hold("stage", "v1"):
        pass
    shared.close()


def test_a_lock_file_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--state-dir"):
        LockFile(str(tmp_path / "absent" / "locks"))


def test_a_lock_given_back_after_the_file_was_closed_touches_no_other_file(tmp_path: Path) -> None:
    shared = LockFile(str(tmp_path / "locks"))
    with OperationLocks(shared).hold("sweep", "v1"):
        shared.close()
    assert taken_elsewhere(tmp_path / "locks", "v1")
