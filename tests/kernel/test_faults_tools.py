"""NodeStage with tools and kernel modules that are missing, old, talkative, hanging or killed."""

import asyncio
import subprocess
from pathlib import Path

import pytest
from grpclib.const import Status

from tests.kernel.conftest import MODULES, MakeTarget
from tests.support.csi_calls import (
    NodeCalls,
    NodeServer,
    StaticVolume,
    controllers_of,
    eventually,
    failure_of,
    volume_on,
)
from tests.support.stand_ins import running

pytestmark = pytest.mark.usefixtures("everything_goes")

TOOL_SECONDS = 60.0
# A failure that is not retried has no pause in it.
AT_ONCE_SECONDS = 10.0

# What nvme-cli 1.x does otherwise, as far as a driver can see: one line for a failure, the errno as exit status.
OLDER = """
case "$1" in version) echo nvme version 1.16; exit 0;; esac
for word; do
    case "$word" in -T)
        echo "connect: unrecognized option '-T'" >&2
        echo "Usage: nvme connect <device> [OPTIONS]" >&2
        echo "  [  --keep-alive-tmo=<NUM>, -k <NUM> ]   --- keep alive timeout period in seconds" >&2
        exit 22
    esac
done
said=$($real "$@" 2>&1) && exit 0
echo "$said" | head -n 1 >&2
case "$said" in *refused*) exit 111;; *) exit 5;; esac
"""
WARNS = """
echo "warning: /etc/nvme/config.json is ignored"
echo "Warning: the host id does not match the host NQN" >&2
exec $real "$@"
"""
HANGS = "exec sleep 1000"
# As every version answers for a session that it does not find; the exit status is that of success.
UNWILLING = """
case "$1" in disconnect) echo "NQN:$3 disconnected 0 controller(s)"; exit 0;; esac
exec $real "$@"
"""


def nvme_cli(test: object) -> object:
    """The test is of the connector that starts nvme."""
    return pytest.mark.parametrize("server", ["nvme-cli"], indirect=True)(test)


async def test_the_module_is_loaded_where_it_can_be_and_asked_for_where_it_cannot(
    server: NodeServer, calls: NodeCalls, nvmet_target: MakeTarget
) -> None:
    volume = volume_on(nvmet_target(), "module")
    try:
        unload()
        await calls.stage(volume)
        await calls.unstage(volume)
        with server.tools.put("modprobe", "echo modprobe: FATAL: Module nvme-tcp not found >&2; exit 1"):
            unload()

            failure = await failure_of(calls.stage(volume))

            assert failure.status is Status.FAILED_PRECONDITION, failure.message
            assert "modprobe nvme-tcp" in failure.message
            assert failure.seconds < AT_ONCE_SECONDS
            assert "modprobe nvme-tcp" in " ".join(await calls.storage_problems())
    finally:
        load()
    await calls.stage(volume)
    await calls.unstage(volume)


def load() -> None:
    """Have all modules of the lane again."""
    subprocess.run(["modprobe", "--all", *MODULES], check=True, timeout=TOOL_SECONDS)


def unload() -> None:
    """Take the kernel's NVMe/TCP host away."""
    subprocess.run(["rmmod", "nvme_tcp", "nvme_fabrics"], check=True, timeout=TOOL_SECONDS)
    assert not Path("/dev/nvme-fabrics").exists()


async def stage_and_unstage(calls: NodeCalls, volume: StaticVolume) -> None:
    """The volume's short life, with exactly one session."""
    await calls.stage(volume)
    assert len(controllers_of(volume.target.nqn)) == 1
    await calls.unstage(volume)


@nvme_cli
async def test_nvme_cli_that_is_absent_is_asked_for(
    server: NodeServer, calls: NodeCalls, nvmet_target: MakeTarget
) -> None:
    volume = volume_on(nvmet_target(), "absent")
    with server.tools.hidden("nvme"):
        failure = await failure_of(calls.stage(volume))

        assert failure.status in {Status.UNAVAILABLE, Status.FAILED_PRECONDITION}
        assert "nvme is not installed" in failure.message
        assert "Install" in failure.message
        assert failure.seconds < AT_ONCE_SECONDS
        (problem,) = await calls.storage_problems()
        assert "Install nvme-cli" in problem
    await stage_and_unstage(calls, volume)


@nvme_cli
async def test_nvme_cli_that_is_older_works_with_what_it_knows(
    server: NodeServer, calls: NodeCalls, nvmet_target: MakeTarget
) -> None:
    exported = nvmet_target()
    with server.tools.put("nvme", OLDER):
        await stage_and_unstage(calls, volume_on(exported, "older"))

        exported.break_link()
        asyncio.get_running_loop().call_later(0.5, exported.restore)
        await stage_and_unstage(calls, volume_on(exported, "older-refused"))

        failure = await failure_of(calls.stage(volume_on(exported, "older-option", tos="8")))
        assert failure.status is Status.INVALID_ARGUMENT, failure.message
        assert "unrecognized option '-T'" in failure.message
        assert failure.seconds < AT_ONCE_SECONDS


@nvme_cli
async def test_nvme_cli_that_prints_warnings_before_its_answer_is_understood(
    server: NodeServer, calls: NodeCalls, nvmet_target: MakeTarget
) -> None:
    exported = nvmet_target()
    with server.tools.put("nvme", WARNS):
        await stage_and_unstage(calls, volume_on(exported, "warned"))

        exported.break_link()
        asyncio.get_running_loop().call_later(0.5, exported.restore)
        await stage_and_unstage(calls, volume_on(exported, "warned-refused"))

        exported.allow_only("nqn.2026-01.io.example:somebody-else")
        failure = await failure_of(calls.stage(volume_on(exported, "warned-closed")))
        assert failure.status is Status.FAILED_PRECONDITION, failure.message
        assert "not allowed" in failure.message


@nvme_cli
async def test_nvme_cli_that_hangs_ends_with_the_call(
    server: NodeServer, calls: NodeCalls, nvmet_target: MakeTarget
) -> None:
    volume = volume_on(nvmet_target(), "hanging")
    with server.tools.put("nvme", HANGS):
        stage = asyncio.create_task(calls.stage(volume))
        await eventually(lambda: running("sleep") != [], "nvme hangs")

        stage.cancel()

        await eventually(lambda: running() == [], "nothing runs on", seconds=1.0)
    await eventually(lambda: server.ends(volume.volume_id) == ["CANCELLED"], "the call has ended", seconds=1.0)
    await stage_and_unstage(calls, volume)


@nvme_cli
@pytest.mark.parametrize("connects", [False, True], ids=["before", "after"])
async def test_nvme_cli_that_was_killed_is_started_again(
    server: NodeServer, calls: NodeCalls, nvmet_target: MakeTarget, scratch: Path, connects: bool
) -> None:
    # The kernel's memory killer, before or after the kernel has made the session.
    once = scratch / "once"
    once.touch()
    script = f"""rm {once} 2>/dev/null || exec $real "$@"; {'$real "$@";' if connects else ""} kill -KILL $$"""
    volume = volume_on(nvmet_target(), f"killed-{connects}".lower())
    with server.tools.put("nvme", script):
        await stage_and_unstage(calls, volume)
    assert not once.exists()


@nvme_cli
async def test_nvme_cli_that_disconnects_nothing_is_not_believed(
    server: NodeServer, calls: NodeCalls, nvmet_target: MakeTarget
) -> None:
    volume = volume_on(nvmet_target(), "unwilling")
    await calls.stage(volume)
    with server.tools.put("nvme", UNWILLING):
        failure = await failure_of(calls.unstage(volume))
        assert failure.status is Status.UNAVAILABLE, failure.message
        assert "still connected after its disconnect" in failure.message
        assert "disconnected 0 controller(s)" in failure.message
    assert len(controllers_of(volume.target.nqn)) == 1
    await calls.unstage(volume)
    assert controllers_of(volume.target.nqn) == []
