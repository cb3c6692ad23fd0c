"""``rds-csi demo`` plays the whole life of a volume on this machine and leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

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
