"""``rds-csi demo --array routeros`` plays a volume's life over both transports and leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rds_csi.commands.demo_routeros import play_routeros
from rds_csi.simulator.faults import Fault, FaultKind

DEMO_SECONDS = 120.0
# Of a user that no machine has.
USER = "54321"
COMMAND = (Path(sys.executable).with_name("rds-csi"), "demo", "--array", "routeros")
# In the order in which they are played.
STEPS = (
    *("check the array", "ask for the pool's room", "create a volume", "publish it", "stage and mount it"),
    *("write into its file", "take a snapshot", "grow it", "clone it", "restore the snapshot"),
    *("check the data of all three", "list the volumes", "unpublish, unstage, detach", "delete volumes"),
)
SHOWN = ("slot     demo", "file     /raid10/rds-csi/demo.", "NQN      nqn.", "comment  rds-csi/1/")


def test_the_demo_plays_over_both_transports_and_leaves_nothing(home: Path) -> None:
    demo = subprocess.run(
        COMMAND, capture_output=True, text=True, timeout=DEMO_SECONDS, env={**os.environ, "TMPDIR": str(home)}
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    begin, over_ssh, over_rest = demo.stdout.partition("Over routeros+ssh")[0], *lives(demo.stdout)
    assert "made up" in begin or "simulated" in begin
    for life in (over_ssh, over_rest):
        places = [life.find(step) for step in STEPS]
        assert -1 not in places, life
        assert places == sorted(places)
        assert [text for text in SHOWN if text not in life] == []
    # What each step cost the array stands with it, and only what its transport has.
    assert "exec" in over_ssh
    assert "request" not in over_ssh
    assert "request" in over_rest
    assert "exec" not in over_rest
    assert "Nothing is left behind" in demo.stdout
    assert list(home.iterdir()) == []


def lives(output: str) -> tuple[str, str]:
    """What was printed of each transport."""
    over_ssh, _, over_rest = output.partition("Over routeros+ssh")[2].partition("Over routeros+https")
    return over_ssh, over_rest


@pytest.mark.parametrize("transport", ["ssh", "https"])
@pytest.mark.parametrize("during", ["create a volume", "take a snapshot", "clone it", "delete volumes"])
def test_ctrl_c_at_any_step_leaves_nothing(home: Path, during: str, transport: str) -> None:
    before = STEPS[STEPS.index(during) - 1]
    with subprocess.Popen(
        # A shell starts what runs in the background with SIGINT ignored, and its children's children inherit that.
        ["env", "--default-signal=INT", *COMMAND],
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
            if f"routeros+{transport}" in seen and before in line:
                break
        demo.send_signal(signal.SIGINT)
        seen += demo.stdout.read()
        status = demo.wait(DEMO_SECONDS)
    assert status == 128 + signal.SIGINT, seen
    assert "Traceback" not in seen
    assert "left behind, which" not in seen
    assert list(home.iterdir()) == []


def test_the_demo_needs_no_root_and_no_name_of_its_user(home: Path) -> None:
    # A user that is but a number, as in a container, where runtimes set HOME to /. It may read this program, wherever
    # that is.
    nobody = ("setpriv", "--reuid", USER, "--regid", USER, "--clear-groups")
    reading = ("--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search")
    os.chown(home, int(USER), int(USER))
    demo = subprocess.run(
        [*nobody, *reading, *COMMAND],
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        env={"PATH": os.environ["PATH"], "HOME": "/", "TMPDIR": str(home)},
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert list(home.iterdir()) == []


async def test_a_failed_step_is_told_and_ends_the_demo_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert await play_routeros([Fault(FaultKind.NO_SPACE, times=0)]) == 1
    out, err = capsys.readouterr()
    assert "FAILED  create a volume" in out
    assert "routeros+https" not in out
    assert "Nothing is left behind" not in out
    assert "full" in err or "space" in err


async def test_an_array_that_is_not_well_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert await play_routeros([Fault(FaultKind.DEGRADED_RAID, times=0)]) == 1
    out, err = capsys.readouterr()
    assert "FAILED  check the array" in out
    assert "degraded" in err


async def test_ctrl_c_does_not_cut_off_the_way_back(capsys: pytest.CaptureFixture[str]) -> None:
    no_clone = Fault(FaultKind.WRONG_POLICY, "demo-clone")
    slow_removal = Fault(FaultKind.SLOW, "remove", times=0, seconds=0.3)
    demo = asyncio.create_task(play_routeros([no_clone, slow_removal]))
    out = ""
    async with asyncio.timeout(DEMO_SECONDS):
        while "FAILED  clone it" not in out:
            assert not demo.done(), out
            await asyncio.sleep(0.01)
            out += capsys.readouterr().out
        # What asyncio.run does at the first SIGINT.
        demo.cancel()
        with pytest.raises(asyncio.CancelledError):
            await demo
    assert "left behind" not in capsys.readouterr().err
