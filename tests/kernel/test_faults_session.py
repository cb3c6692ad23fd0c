"""What happens to a staged volume when its session, its target or the plugin dies, and that all of it can be mended."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from tests.kernel.conftest import MakeTarget
from tests.support.csi_calls import (
    NodeCalls,
    NodeServer,
    StaticVolume,
    controllers_of,
    eventually,
    is_live,
    session_of,
    volume_on,
)
from tests.support.nvme_host import delete
from tests.support.stand_ins import kill, running

pytestmark = pytest.mark.usefixtures("everything_goes")

TOOL_SECONDS = 60.0
PAYLOAD = os.urandom(1 << 20)
STRANGER = "22222222-2222-4222-8222-222222222222"


def write(path: Path) -> None:
    """The payload, down to the array."""
    with path.open("wb") as stream:
        stream.write(PAYLOAD)
        stream.flush()
        os.fsync(stream.fileno())


async def written(calls: NodeCalls, volume: StaticVolume) -> None:
    """Stage the volume and put the payload on it."""
    await calls.stage(volume)
    await asyncio.to_thread(write, calls.path(volume) / "data")


async def intact(calls: NodeCalls, volume: StaticVolume) -> None:
    """Unstage whatever is left of the volume, stage it again, and find the payload."""
    await calls.unstage(volume)
    # A reconnect that the driver had begun by itself is undone as soon as it has come to its end.
    await eventually(lambda: not controllers_of(volume.target.nqn), "no session is left")
    await calls.stage(volume)
    assert await asyncio.to_thread((calls.path(volume) / "data").read_bytes) == PAYLOAD
    assert await calls.problems(volume) == []
    await calls.unstage(volume)


def is_live_without(nqn: str, namespace_uuid: str) -> bool:
    """Whether the session is up and does not have that namespace."""
    session = session_of(nqn)
    return session is not None and session.is_live and session.namespace(namespace_uuid) is None


def is_dead(path: Path) -> bool:
    """The file cannot be read from the array any more: Linux 6.12 shuts ext4 down, 6.1 fails what is not cached."""
    try:
        with path.open("rb", buffering=0) as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            stream.read(1)
    except OSError as error:
        return error.errno == errno.EIO
    return False


async def test_a_controller_deleted_under_a_mount_is_told_and_mended(
    calls: NodeCalls, nvmet_target: MakeTarget
) -> None:
    volume = volume_on(nvmet_target(), "deleted", fs_type="ext4")
    await written(calls, volume)
    (controller,) = controllers_of(volume.target.nqn)

    delete(controller)

    await eventually(lambda: controller not in controllers_of(volume.target.nqn), "the controller is gone")
    assert await calls.unhealthy(volume) != []
    assert await asyncio.to_thread(is_dead, calls.path(volume) / "data")
    # A session that came back since makes no dead mount live.
    assert await calls.problems(volume) != []
    await intact(calls, volume)


async def test_a_loss_timeout_that_expired_under_a_mount_is_told_and_mended(
    calls: NodeCalls, nvmet_target: MakeTarget
) -> None:
    exported = nvmet_target()
    volume = volume_on(exported, "lost", fs_type="ext4", ctrlLossTmo="2", reconnectDelay="1")
    await written(calls, volume)
    (controller,) = controllers_of(exported.nqn)

    exported.break_link()

    assert await calls.unhealthy(volume) != []
    await eventually(lambda: controller not in controllers_of(exported.nqn), "the kernel gave up")
    assert await asyncio.to_thread(is_dead, calls.path(volume) / "data")
    assert await calls.problems(volume) != []
    exported.restore()
    await intact(calls, volume)


async def test_a_target_deleted_while_connected_is_told_and_can_be_unstaged(
    calls: NodeCalls, nvmet_target: MakeTarget
) -> None:
    mounted, block = nvmet_target(), nvmet_target()
    volumes = [
        volume_on(mounted, "deleted-mounted", fs_type="ext4", ctrlLossTmo="2", reconnectDelay="1"),
        # By default the kernel reconnects for ever.
        volume_on(block, "deleted-block"),
    ]
    await written(calls, volumes[0])
    await calls.stage(volumes[1])

    mounted.close()
    block.close()

    for volume in volumes:
        assert any(volume.target.nqn in problem or "gone" in problem for problem in await calls.unhealthy(volume))
    nqn = mounted.nqn
    await eventually(lambda: controllers_of(nqn) == [], "the kernel gave up")
    for volume in volumes:
        await calls.unstage(volume)
        assert session_of(volume.target.nqn) is None


async def test_another_namespace_under_a_staged_volume_is_told_and_never_used(
    calls: NodeCalls, nvmet_target: MakeTarget
) -> None:
    exported = nvmet_target()
    volume = volume_on(exported, "replaced", fs_type="ext4", reconnectDelay="1")
    await written(calls, volume)

    # During an outage: the target of Linux 6.1 leaks a namespace that is disabled under a host's commands.
    exported.break_link()
    await eventually(lambda: not is_live(exported.nqn), "the session is away")
    exported.replace_uuid(STRANGER)
    exported.restore()

    # Linux 6.12 takes the old one away, and shows the other only to a host that connects anew.
    await eventually(lambda: is_live_without(exported.nqn, volume.target.namespace_uuid), "the namespace is gone")
    assert await calls.unhealthy(volume) != []
    await calls.unstage(volume)
    with pytest.raises(GRPCError, match=STRANGER) as caught:
        await calls.stage(volume)
    assert caught.value.status is Status.FAILED_PRECONDITION
    exported.replace_uuid(volume.target.namespace_uuid)
    await intact(calls, volume)


async def test_a_stage_that_races_an_unstage_ends_in_one_of_both(calls: NodeCalls, nvmet_target: MakeTarget) -> None:
    volume = volume_on(nvmet_target(), "racing")

    async def outcome(call: Callable[[StaticVolume], Awaitable[None]], delay: float = 0.0) -> Status:
        await asyncio.sleep(delay)
        try:
            await call(volume)
        except GRPCError as error:
            return error.status
        return Status.OK

    for delay in (0.0, 0.05, 0.2):
        # Whichever comes second finds the first one running, or its result.
        outcomes = await asyncio.gather(outcome(calls.stage), outcome(calls.unstage, delay))
        assert Status.OK in outcomes
        assert set(outcomes) <= {Status.OK, Status.ABORTED}
        await calls.stage(volume)
        assert len(controllers_of(volume.target.nqn)) == 1

        outcomes = await asyncio.gather(outcome(calls.unstage), outcome(calls.stage, delay))
        assert Status.OK in outcomes
        assert set(outcomes) <= {Status.OK, Status.ABORTED}
        await calls.unstage(volume)
        assert controllers_of(volume.target.nqn) == []


def stand_in_that_stops(program: str, marks: Path) -> str:
    """A script for nvme, dd or mount: once the real program has ended, or before mount begins, it hangs where
    ``marks`` has a file whose name is in its arguments or its input, and leaves a file NAME.here."""
    seen = 'input=$(cat); seen="$* $input"' if program == "dd" else 'seen="$*"'
    run = 'printf %s "$input" | $real "$@" || exit $?' if program == "dd" else '$real "$@" || exit $?'
    first, last = ("", run) if program == "mount" else (run, "exit 0")
    return f"""
{seen}
{first}
for mark in {marks}/*.{program}; do
    name=${{mark##*/}}; name=${{name%.{program}}}
    case "$seen" in *"$name"*) touch {marks}/$name.here; exec sleep 1000;; esac
done
{last}
"""


async def test_a_plugin_killed_between_connect_and_mount_is_gone_on_with_or_undone(
    servers: dict[str, NodeServer], nvmet_target: MakeTarget, scratch: Path
) -> None:
    killed = [Killed(server, scratch / server.connector, nvmet_target) for server in servers.values()]
    await asyncio.gather(*(one.stage_until_killed() for one in killed))
    kill(running())
    await asyncio.gather(*(asyncio.to_thread(one.server.driver.start) for one in killed))
    await asyncio.gather(*(one.go_on() for one in killed))


class Killed:
    """A plugin with four volumes that is killed in the middle of all their stages."""

    def __init__(self, server: NodeServer, marks: Path, make: MakeTarget) -> None:
        marks.mkdir()
        self.server = server
        self.marks = marks
        self.tool = {"nvme-cli": "nvme", "fabrics": "dd"}[server.connector]
        # Two are stopped after their connect, two before their mount; one of each is staged again, one unstaged.
        self.volumes = [volume_on(make(), f"killed-{number}-{server.connector}", fs_type="ext4") for number in range(4)]
        for volume in self.volumes[:2]:
            (marks / f"{volume.target.nqn}.{self.tool}").touch()
        for volume in self.volumes[2:]:
            (marks / f"{volume.volume_id}.mount").touch()

    async def stage_until_killed(self) -> None:
        """Kill the plugin while all stages stand still."""
        with ExitStack() as stand_ins:
            for program in (self.tool, "mount"):
                script = stand_in_that_stops(program, self.marks)
                stand_ins.enter_context(self.server.tools.put(program, script))
            async with self.server.calls() as calls:
                stages = [asyncio.create_task(calls.stage(volume)) for volume in self.volumes]
                await eventually(lambda: len(list(self.marks.glob("*.here"))) == 4, "all stages stand still")
                self.server.driver.kill()
                outcomes = await asyncio.gather(*stages, return_exceptions=True)
        assert not any(outcome is None for outcome in outcomes)
        assert all(is_live(volume.target.nqn) for volume in self.volumes)

    async def go_on(self) -> None:
        """What the kubelet does with the plugin that was started again."""
        async with self.server.calls() as calls:
            for volume in self.volumes[::2]:
                await written(calls, volume)
                assert len(controllers_of(volume.target.nqn)) == 1
                await intact(calls, volume)
            for volume in self.volumes[1::2]:
                await calls.unstage(volume)
                assert session_of(volume.target.nqn) is None
