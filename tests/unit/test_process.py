"""Running programs: bounded, killed with all their children, reaped."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from rds_csi.errors import DeadlineExceeded, Unavailable
from rds_csi.process import MAX_OUTPUT_BYTES, ProcessRunner
from tests.support.rpc import eventually, open_descriptors
from tests.support.waiting import wait_until


def is_alive(pid: int) -> bool:
    """Whether ``pid`` is a process that is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def gone(pid: int) -> None:
    await eventually(lambda: not is_alive(pid), f"process {pid} is gone")


def text_of(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


async def appears(path: Path) -> int:
    """The number that a child writes to ``path``."""
    await eventually(lambda: text_of(path) != "", f"{path} is written")
    return int(text_of(path))


async def test_output_status_and_input() -> None:
    done = await ProcessRunner().run("sh", "-c", "cat; echo no >&2; exit 3", timeout=5, input=b"yes")
    assert (done.returncode, done.stdout, done.stderr, done.last_line) == (3, "yes", "no\n", "no")


async def test_tools_speak_english_and_see_extra_variables() -> None:
    done = await ProcessRunner().run("sh", "-c", 'echo "$LC_ALL $EXTRA"', timeout=5, env={"EXTRA": "x"})
    assert done.stdout == "C x\n"


async def test_a_missing_program_is_told_by_name() -> None:
    with pytest.raises(Unavailable, match=r"mkfs\.none is not installed"):
        await ProcessRunner().run("mkfs.none", timeout=5)


async def test_a_program_that_cannot_be_started_is_unavailable(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    with pytest.raises(Unavailable, match="cannot be started"):
        await ProcessRunner(str(tmp_path)).run("tool", timeout=5)


async def test_a_slow_program_is_killed_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(DeadlineExceeded, match="did not end within"):
        await ProcessRunner().run("sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait", timeout=0.2)
    await gone(await appears(pid_file))


async def test_a_cancelled_run_leaves_neither_child_nor_descriptor(tmp_path: Path) -> None:
    before = open_descriptors()
    pid_file = tmp_path / "pid"
    task = asyncio.create_task(ProcessRunner().run("sh", "-c", f"echo $$ > {pid_file}; exec sleep 60", timeout=60))
    pid = await appears(pid_file)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(pid)
    await eventually(lambda: open_descriptors() == before, "no descriptor is left")


async def test_a_cancelled_run_ends_what_the_program_has_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid_file}; wait"
    task = asyncio.create_task(ProcessRunner().run("sh", "-c", script, timeout=60))
    child = await appears(pid_file)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(child)


@pytest.mark.parametrize("steps", range(2, 8))
async def test_a_run_cancelled_while_it_starts_ends_what_the_program_has_started(tmp_path: Path, steps: int) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid_file}; wait"
    task = asyncio.create_task(ProcessRunner().run("sh", "-c", script, timeout=60))
    for _ in range(steps):
        await asyncio.sleep(0)
    # The loop stands still meanwhile, as on a busy machine.
    wait_until(lambda: text_of(pid_file) != "", "the program has started another one")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(int(text_of(pid_file)))


@pytest.mark.parametrize("steps", range(8))
async def test_a_run_cancelled_while_it_starts_leaves_nothing(steps: int) -> None:
    before = open_descriptors()
    task = asyncio.create_task(ProcessRunner().run("sleep", "60", timeout=60))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: open_descriptors() == before, "no descriptor is left")


async def test_a_descendant_that_keeps_the_pipes_does_not_keep_ours(tmp_path: Path) -> None:
    before = open_descriptors()
    pid_file = tmp_path / "pid"
    with pytest.raises(DeadlineExceeded):
        await ProcessRunner().run("sh", "-c", f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 60'", timeout=0.3)
    pid = await appears(pid_file)
    try:
        await eventually(lambda: open_descriptors() == before, "no descriptor is left")
    finally:
        os.kill(pid, 9)
    await gone(pid)


async def test_run_to_end_outlives_its_caller(tmp_path: Path) -> None:
    go_on, result, begun = tmp_path / "go", tmp_path / "result", tmp_path / "begun"
    script = f"echo $$ > {begun}; while [ ! -e {go_on} ]; do sleep 0.01; done; echo 1 > {result}"
    task = asyncio.create_task(ProcessRunner().run_to_end("sh", "-c", script, timeout=10))
    await appears(begun)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.touch()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert result.exists()


async def test_endless_output_is_cut_but_drained() -> None:
    script = f"import sys; sys.stdout.write('x' * {MAX_OUTPUT_BYTES + 100_000}); sys.exit(5)"
    done = await ProcessRunner().run(sys.executable, "-c", script, timeout=30)
    assert (done.returncode, len(done.stdout)) == (5, MAX_OUTPUT_BYTES)


async def test_a_program_that_does_not_read_its_input_is_no_failure() -> None:
    done = await ProcessRunner().run("true", timeout=5, input=b"x" * 1_000_000)
    assert done.returncode == 0


async def test_the_last_line_falls_back_to_the_status() -> None:
    done = await ProcessRunner().run("sh", "-c", "exit 4", timeout=5)
    assert done.last_line == "exit status 4"
    done = await ProcessRunner().run("sh", "-c", "kill -9 $$", timeout=5)
    assert done.returncode == -9
