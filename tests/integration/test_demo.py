"""``rds-csi demo`` plays the whole life of a volume on this machine and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.traces import loops_below, mounts_below

DEMO_SECONDS = 120.0
STEPS = ("create", "publish", "stage", "mount", "write", "snapshot", "grow", "clone", "check the data", "delete")


def test_the_demo_runs_to_its_end_and_leaves_nothing(home: Path) -> None:
    demo = subprocess.run(
        [Path(sys.executable).with_name("rds-csi"), "demo"],
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        env={**os.environ, "TMPDIR": str(home)},
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert [step for step in STEPS if step not in demo.stdout] == []
    assert "Nothing is left behind." in demo.stdout
    assert (mounts_below(home), loops_below(home), list(home.iterdir())) == ([], [], [])


@pytest.mark.parametrize("during", ["create", "stage", "mount", "take a snapshot", "clone"])
def test_ctrl_c_at_any_step_leaves_nothing(home: Path, during: str) -> None:
    steps = ("create", "publish", "stage", "mount", "write", "take a snapshot", "grow", "clone")
    before = steps[steps.index(during) - 1] if during != steps[0] else "The life"
    with subprocess.Popen(
        # A shell starts what runs in the background with SIGINT ignored, and its children's children inherit that.
        ["env", "--default-signal=INT", Path(sys.executable).with_name("rds-csi"), "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(home), "PYTHONUNBUFFERED": "1"},
    ) as demo:
        assert demo.stdout is not None
        # A step is printed at its end: then the next one is under way.
        seen = ""
        for line in demo.stdout:
            seen += line
            if before in line:
                break
        demo.send_signal(signal.SIGINT)
        seen += demo.stdout.read()
        status = demo.wait(DEMO_SECONDS)
    assert status == 128 + signal.SIGINT, seen
    assert "Traceback" not in seen
    assert (mounts_below(home), loops_below(home), list(home.iterdir())) == ([], [], []), seen
