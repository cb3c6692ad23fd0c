"""SSH to the device: against a real server that fails where the test says."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from rds_csi.arrays.routeros.errors import BadCredentials, GarbageReply, HostKeyMismatch, LostReply, Unsent
from rds_csi.arrays.routeros.options import SshOptions
from rds_csi.arrays.routeros.ssh_connection import SshTimes
from rds_csi.arrays.routeros.ssh_console import SshConsole
from rds_csi.deadline import set_deadline
from rds_csi.errors import InvalidArgument
from tests.support.clock import FakeClock
from tests.support.routeros_servers import LOOPBACK, Exec, Relay, SshDevice, tcp_server

SHORT = 0.1
# Deadlines that are reached, but that a step before them must not reach on a busy machine.
MODERATE = 1.0
# Deadlines that a test does not mean to reach.
LONG = 30.0
TIMES = SshTimes(dial=LONG, opening=LONG, place=LONG, check=LONG)


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[SshDevice]:
    async with SshDevice(tmp_path).serve() as device:
        yield device


def options(device: SshDevice, port: int = 0) -> SshOptions:
    return SshOptions(LOOPBACK, "csi", str(device.key_file), str(device.known_hosts), port or device.port)


@asynccontextmanager
async def console(
    options: SshOptions, clock: FakeClock | None = None, times: SshTimes = TIMES
) -> AsyncIterator[SshConsole]:
    """A console that leaves no task behind."""
    before = asyncio.all_tasks()
    made = SshConsole(options, clock=(clock or FakeClock()).clock, times=times)
    try:
        yield made
    finally:
        await made.close()
        ours = {task for task in asyncio.all_tasks() - before if "SshConsole" in repr(task.get_coro())}
        assert not ours


async def mute(_: Exec) -> None:
    await asyncio.Event().wait()


class TestCommands:
    async def test_output_is_returned_with_plain_line_ends(self, device: SshDevice) -> None:
        async def two_lines(command: Exec) -> None:
            command.answer("one\r\ntwo\r\n")

        device.on_exec = two_lines
        async with console(options(device)) as ssh:
            assert await ssh.run(":put one") == "one\ntwo\n"
        assert device.commands == [":put one"]

    async def test_one_connection_serves_all_commands(self, device: SshDevice) -> None:
        async with console(options(device)) as ssh:
            for _ in range(5):
                await ssh.run(":put 1")
            assert (ssh.counters.connections, ssh.counters.channels, ssh.counters.execs) == (1, 5, 5)
        assert len(device.connections) == 1

    async def test_foreign_bytes_do_not_spoil_the_output(self, device: SshDevice) -> None:
        async def latin(command: Exec) -> None:
            command.channel.write(b"caf\xe9\r\n")
            command.channel.exit(0)

        device.on_exec = latin
        async with console(options(device)) as ssh:
            assert await ssh.run(":put x") == "caf\ufffd\n"

    async def test_an_end_of_file_without_a_status_is_an_end(self, device: SshDevice) -> None:
        async def end(command: Exec) -> None:
            command.answer("done", status=None)

        device.on_exec = end
        async with console(options(device)) as ssh:
            assert await ssh.run(":put x") == "done"

    @pytest.mark.parametrize("script", ["a\nb", "a\rb", "a\0b", "x" * 65536])
    async def test_what_an_exec_cannot_carry_is_refused_before_anything_is_sent(
        self, device: SshDevice, script: str
    ) -> None:
        async with console(options(device)) as ssh:
            with pytest.raises(InvalidArgument):
                await ssh.run(script)
        assert not device.connections

    async def test_64_callers_share_four_channels_in_the_order_they_came(self, device: SshDevice) -> None:
        async with console(options(device)) as ssh:
            await asyncio.gather(*(ssh.run(f":put {number}") for number in range(64)))
            assert ssh.counters.connections == 1
        assert device.open_at_most <= 4
        arrived = [int(command.split()[1]) for command in device.commands]
        assert sorted(arrived) == list(range(64))
        # Four are under way at once and may overtake one another, but nobody else.
        assert all(abs(position - number) < 4 for position, number in enumerate(arrived))

    async def test_with_one_channel_the_order_is_exact(self, device: SshDevice) -> None:
        async with console(replace(options(device), channels=1)) as ssh:
            await asyncio.gather(*(ssh.run(f":put {number}") for number in range(16)))
        assert device.commands == [f":put {number}" for number in range(16)]
        assert device.open_at_most == 1


class TestTrust:
    async def test_another_host_key_is_refused_with_both_remedies(self, device: SshDevice) -> None:
        device.pin(asyncssh.generate_private_key("ssh-ed25519"))
        async with console(replace(options(device), accept_first_host_key=True)) as ssh:
            with pytest.raises(HostKeyMismatch, match=r"/ip/ssh/print") as caught:
                await ssh.run(":put x")
        assert device.host_key.get_fingerprint() in str(caught.value)
        assert not device.commands

    async def test_a_host_key_of_another_kind_is_a_mismatch_too(self, device: SshDevice) -> None:
        device.pin(asyncssh.generate_private_key("ssh-rsa", key_size=2048))
        async with console(options(device)) as ssh:
            with pytest.raises(HostKeyMismatch, match="known-hosts"):
                await ssh.run(":put x")

    async def test_an_unknown_host_key_is_refused_and_the_way_to_accept_it_named(self, device: SshDevice) -> None:
        device.known_hosts.write_text("# nobody yet\n")
        async with console(options(device)) as ssh:
            with pytest.raises(HostKeyMismatch, match="accept-first-host-key=yes"):
                await ssh.run(":put x")
        assert device.known_hosts.read_text() == "# nobody yet\n"

    async def test_the_first_host_key_is_accepted_once_and_kept(self, device: SshDevice) -> None:
        other = "other.example ssh-ed25519 " + device.user_key.export_public_key().decode().split()[1]
        device.known_hosts.write_text(other)
        first = replace(options(device), accept_first_host_key=True)
        async with console(first) as ssh:
            assert await ssh.run(":put x") == "ok\n"
        kept = device.known_hosts.read_text().splitlines()
        assert kept[0] == other
        assert kept[1].startswith(f"[{LOOPBACK}]:{device.port} ssh-ed25519 ")
        async with console(options(device)) as ssh:
            await ssh.run(":put x")
        device.pin(asyncssh.generate_private_key("ssh-ed25519"))
        async with console(first) as ssh:
            with pytest.raises(HostKeyMismatch):
                await ssh.run(":put x")

    async def test_the_known_hosts_file_is_made_for_the_first_key(self, device: SshDevice) -> None:
        device.known_hosts.unlink()
        async with console(replace(options(device), accept_first_host_key=True)) as ssh:
            await ssh.run(":put x")
        assert device.known_hosts.read_text().count("\n") == 1

    async def test_a_first_key_that_cannot_be_kept_is_not_accepted(self, device: SshDevice) -> None:
        nowhere = replace(options(device), known_hosts="/proc/known_hosts", accept_first_host_key=True)
        async with console(nowhere) as ssh:
            with pytest.raises(HostKeyMismatch, match="cannot be kept"):
                await ssh.run(":put x")
        assert not device.commands

    async def test_a_line_whose_key_cannot_be_read_is_no_invitation_to_accept_another(self, device: SshDevice) -> None:
        device.known_hosts.write_text(f"[{LOOPBACK}]:{device.port} ssh-ed25519 AAAAbroken")
        async with console(replace(options(device), accept_first_host_key=True)) as ssh:
            with pytest.raises(HostKeyMismatch):
                await ssh.run(":put x")

    async def test_a_broken_known_hosts_file_is_told(self, device: SshDevice) -> None:
        device.known_hosts.write_text("nonsense")
        async with console(options(device)) as ssh:
            with pytest.raises(HostKeyMismatch, match="known-hosts file"):
                await ssh.run(":put x")

    async def test_a_refused_key_names_what_to_do_on_the_device(self, device: SshDevice) -> None:
        device.key_file.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
        async with console(options(device)) as ssh:
            with pytest.raises(BadCredentials, match="/user/ssh-keys/import user=csi"):
                await ssh.run(":put x")

    async def test_a_rotated_key_counts_at_the_next_connection(self, device: SshDevice) -> None:
        good = device.key_file.read_bytes()
        device.key_file.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
        clock = FakeClock()
        async with console(options(device), clock) as ssh:
            with pytest.raises(BadCredentials):
                await ssh.run(":put x")
            device.key_file.write_bytes(good)
            clock.seconds += 1
            assert await ssh.run(":put x") == "ok\n"

    @pytest.mark.parametrize(
        ("content", "message"), [(b"", "is empty"), (b"hello", "is no private key"), (None, "cannot be read")]
    )
    async def test_a_key_file_that_is_none_is_told_by_its_name(
        self, device: SshDevice, content: bytes | None, message: str
    ) -> None:
        if content is None:
            device.key_file.unlink()
        else:
            device.key_file.write_bytes(content)
        async with console(options(device)) as ssh:
            with pytest.raises(BadCredentials, match=message) as caught:
                await ssh.run(":put x")
        assert str(device.key_file) in str(caught.value)

    async def test_a_key_with_a_passphrase_is_told(self, device: SshDevice) -> None:
        device.key_file.write_bytes(device.user_key.export_private_key(passphrase="secret", format_name="pkcs8-pem"))
        async with console(options(device)) as ssh:
            with pytest.raises(BadCredentials, match="passphrase"):
                await ssh.run(":put x")

    async def test_the_library_logs_neither_commands_nor_users(
        self, device: SshDevice, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        async with console(options(device)) as ssh:
            await ssh.run(":put very-special")
        assert "very-special" not in caplog.text
        assert "csi" not in caplog.text.replace("rds_csi", "")


class TestDialling:
    async def test_a_closed_port_is_unsent(self, device: SshDevice) -> None:
        async with tcp_server(lambda *_: asyncio.sleep(0)) as port:
            pass
        async with console(options(device, port)) as ssh:
            with pytest.raises(Unsent):
                await ssh.run(":put x")

    @pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-ROSSSH\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
    async def test_a_server_that_closes_early_is_unsent(self, device: SshDevice, greeting: bytes) -> None:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(greeting)
            await writer.drain()

        async with tcp_server(greet) as port, console(options(device, port)) as ssh:
            with pytest.raises(Unsent):
                await ssh.run(":put x")

    async def test_a_server_that_stays_mute_is_unsent_after_the_deadline(self, device: SshDevice) -> None:
        async def stay(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        times = replace(TIMES, dial=SHORT)
        async with tcp_server(stay) as port, console(options(device, port), times=times) as ssh:
            with pytest.raises(Unsent, match="in time"):
                await ssh.run(":put x")

    async def test_a_connection_that_dies_at_login_is_unsent(self, device: SshDevice) -> None:
        device.on_login = lambda connection: connection.abort()
        async with console(options(device)) as ssh:
            with pytest.raises(Unsent):
                await ssh.run(":put x")
        assert not device.commands

    async def test_concurrent_callers_share_one_attempt_and_its_failure(self, device: SshDevice) -> None:
        dials = 0

        async def count(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
            nonlocal dials
            dials += 1

        async with tcp_server(count) as port, console(options(device, port)) as ssh:
            results = await asyncio.gather(*(ssh.run(":put x") for _ in range(64)), return_exceptions=True)
            assert ssh.counters.connections == 1
        assert dials == 1
        assert all(isinstance(result, Unsent) for result in results)
        assert len({id(result) for result in results}) == 64

    async def test_during_the_pause_nothing_is_tried_and_afterwards_it_is(self, device: SshDevice) -> None:
        clock = FakeClock()
        good = device.known_hosts.read_text()
        device.known_hosts.unlink()
        async with console(options(device), clock) as ssh:
            with pytest.raises(HostKeyMismatch):
                await ssh.run(":put x")
            device.known_hosts.write_text(good)
            clock.seconds += 0.9
            with pytest.raises(HostKeyMismatch):
                await ssh.run(":put x")
            clock.seconds += 0.1
            assert await ssh.run(":put x") == "ok\n"

    async def test_a_cancelled_caller_leaves_the_shared_attempt_to_the_others(self, device: SshDevice) -> None:
        async with console(options(device)) as ssh:
            first = asyncio.ensure_future(ssh.run(":put 1"))
            second = asyncio.ensure_future(ssh.run(":put 2"))
            await asyncio.sleep(0)
            first.cancel()
            assert await second == "ok\n"
            assert ssh.counters.connections == 1
        assert device.commands == [":put 2"]

    async def test_close_ends_an_attempt_that_is_under_way(self, device: SshDevice) -> None:
        arrived = asyncio.Event()

        async def stay(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
            arrived.set()
            await asyncio.Event().wait()

        async with tcp_server(stay) as port, console(options(device, port)) as ssh:
            caller = asyncio.ensure_future(ssh.run(":put x"))
            await arrived.wait()
            await ssh.close()
            with pytest.raises(Unsent):
                await caller
            with pytest.raises(Unsent, match="closed for good"):
                await ssh.run(":put x")


class TestBrokenChannels:
    async def test_a_refused_channel_is_unsent_and_the_connection_is_kept(self, device: SshDevice) -> None:
        async def refuse() -> None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "too many sessions")

        async with console(options(device)) as ssh:
            device.on_open = refuse
            with pytest.raises(Unsent, match="max-sessions"):
                await ssh.run(":put x")

            async def open_again() -> None:
                return

            device.on_open = open_again
            assert await ssh.run(":put x") == "ok\n"
            assert ssh.counters.connections == 1
            assert ssh.counters.execs == 1

    async def test_a_refused_exec_is_unsent(self, device: SshDevice) -> None:
        device.refuse_exec = True
        async with console(options(device)) as ssh:
            with pytest.raises(Unsent):
                await ssh.run(":put x")

    async def test_a_channel_that_does_not_open_is_unsent_and_renews_the_connection(self, device: SshDevice) -> None:
        async def block() -> None:
            await asyncio.Event().wait()

        device.on_open = block
        async with console(options(device), times=replace(TIMES, opening=MODERATE)) as ssh:
            with pytest.raises(Unsent, match="did not open a channel"):
                await ssh.run(":put x")
            assert ssh.counters.execs == 0

            async def open_again() -> None:
                return

            device.on_open = open_again
            assert await ssh.run(":put x") == "ok\n"
            assert ssh.counters.connections == 2

    async def test_a_connection_that_dies_before_the_exec_is_unsent(self, device: SshDevice) -> None:
        async def die() -> None:
            device.connections[-1].abort()
            await asyncio.Event().wait()

        device.on_open = die
        async with console(options(device)) as ssh:
            with pytest.raises(Unsent):
                await ssh.run(":put x")
        assert not device.commands

    async def test_a_mute_command_is_lost_after_its_deadline_and_renews_the_connection(self, device: SshDevice) -> None:
        device.on_exec = mute
        async with console(options(device)) as ssh:
            with pytest.raises(LostReply, match="did not answer"):
                await ssh.run(":put x", timeout=SHORT)

            async def answer(command: Exec) -> None:
                command.answer("ok")

            device.on_exec = answer
            assert await ssh.run(":put x") == "ok"
            assert ssh.counters.connections == 2

    @pytest.mark.parametrize("piece", [b"", b"half of it"])
    async def test_a_reply_that_is_cut_is_lost(self, device: SshDevice, piece: bytes) -> None:
        async def cut(command: Exec) -> None:
            command.channel.write(piece)
            command.connection.abort()

        device.on_exec = cut
        async with console(options(device)) as ssh:
            with pytest.raises(LostReply):
                await ssh.run(":put x")
        assert device.commands == [":put x"]

    async def test_a_channel_that_is_closed_without_an_end_is_lost(self, device: SshDevice) -> None:
        async def close(command: Exec) -> None:
            command.channel.write(b"half of it")
            command.channel.close()

        device.on_exec = close
        async with console(options(device)) as ssh:
            with pytest.raises(LostReply, match="in the middle"):
                await ssh.run(":put x")

    async def test_a_status_other_than_zero_proves_nothing(self, device: SshDevice) -> None:
        async def fail(command: Exec) -> None:
            command.answer("expected end of command\r\n", status=1)

        device.on_exec = fail
        async with console(options(device)) as ssh:
            with pytest.raises(LostReply, match="status 1: expected end of command"):
                await ssh.run(":put x")

    async def test_too_much_output_is_garbage_and_others_go_on(self, device: SshDevice) -> None:
        async def flood(command: Exec) -> None:
            command.answer("x" * 100_000 if "flood" in command.command else "ok")

        device.on_exec = flood
        async with console(options(device)) as ssh:
            with pytest.raises(GarbageReply):
                await ssh.run(":put flood", output_limit=1000)
            assert await ssh.run(":put x") == "ok"
            assert ssh.counters.connections == 1

    async def test_a_failure_leaves_the_other_commands_of_the_connection_alone(self, device: SshDevice) -> None:
        release = asyncio.Event()
        begun = asyncio.Event()

        async def slow(command: Exec) -> None:
            if "slow" in command.command:
                begun.set()
                await release.wait()
                command.answer("slow one")
            elif "mute" in command.command:
                await asyncio.Event().wait()
            else:
                command.answer("new connection")

        device.on_exec = slow
        async with console(options(device)) as ssh:
            running = asyncio.ensure_future(ssh.run(":put slow"))
            await begun.wait()
            with pytest.raises(LostReply):
                await ssh.run(":put mute", timeout=SHORT)
            assert await ssh.run(":put x") == "new connection"
            release.set()
            assert await running == "slow one"
            assert ssh.counters.connections == 2
        assert device.connections[0].is_closed()

    async def test_close_breaks_running_commands(self, device: SshDevice) -> None:
        begun = asyncio.Event()

        async def wait(_: Exec) -> None:
            begun.set()
            await asyncio.Event().wait()

        device.on_exec = wait
        async with console(options(device)) as ssh:
            running = asyncio.ensure_future(ssh.run(":put x"))
            await begun.wait()
            await ssh.close()
            with pytest.raises(LostReply):
                await running


class TestCallers:
    async def test_a_cancelled_command_gives_its_channel_back(self, device: SshDevice) -> None:
        begun = asyncio.Event()

        async def wait(command: Exec) -> None:
            if "wait" not in command.command:
                command.answer("ok")
                return
            begun.set()
            await asyncio.Event().wait()

        device.on_exec = wait
        async with console(replace(options(device), channels=1)) as ssh:
            for _ in range(3):
                begun.clear()
                running = asyncio.ensure_future(ssh.run(":put wait"))
                await begun.wait()
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
            assert await ssh.run(":put x") == "ok"
            assert ssh.counters.connections == 1

    async def test_a_caller_cancelled_while_its_channel_opens_leaves_no_channel_behind(self, device: SshDevice) -> None:
        asked = asyncio.Event()
        release = asyncio.Event()

        async def slowly() -> None:
            asked.set()
            await release.wait()

        device.on_open = slowly
        async with console(options(device)) as ssh:
            running = asyncio.ensure_future(ssh.run(":put 1"))
            await asked.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            release.set()
            assert await ssh.run(":put 2") == "ok\n"
        assert device.commands == [":put 2"]

    async def test_a_caller_whose_time_is_over_sends_nothing(self, device: SshDevice) -> None:
        async with console(options(device)) as ssh:

            async def late() -> str:
                set_deadline(0.0)
                return await ssh.run(":put x")

            with pytest.raises(Unsent, match="time was over"):
                await asyncio.create_task(late())
        assert not device.connections

    async def test_a_caller_waits_for_a_reply_no_longer_than_its_own_deadline(self, device: SshDevice) -> None:
        async with console(options(device)) as ssh:
            await ssh.run(":put x")
            device.on_exec = mute

            async def hurried() -> str:
                set_deadline(time.monotonic() + MODERATE)
                return await ssh.run(":put x")

            with pytest.raises(LostReply):
                await asyncio.create_task(hurried())

    async def test_a_write_that_was_sent_is_not_cut_by_its_callers_deadline(self, device: SshDevice) -> None:
        async with console(options(device)) as ssh:
            await ssh.run(":put x")
            over = asyncio.Event()

            async def late(command: Exec) -> None:
                await over.wait()
                command.answer("done")

            device.on_exec = late

            async def hurried() -> str:
                set_deadline(time.monotonic() + MODERATE)
                asyncio.get_running_loop().call_later(1.2 * MODERATE, over.set)
                return await ssh.run(":put x", timeout=LONG, whole=True)

            assert (await asyncio.create_task(hurried())).strip() == "done"
            assert ssh.counters.connections == 1

    async def test_waiting_for_a_channel_has_a_deadline(self, device: SshDevice) -> None:
        begun = asyncio.Event()

        async def wait(_: Exec) -> None:
            begun.set()
            await asyncio.Event().wait()

        device.on_exec = wait
        async with console(replace(options(device), channels=1), times=replace(TIMES, place=SHORT)) as ssh:
            running = asyncio.ensure_future(ssh.run(":put x"))
            await begun.wait()
            with pytest.raises(Unsent, match="stayed in use"):
                await ssh.run(":put y")
            running.cancel()


class TestIdleConnections:
    async def test_a_silent_connection_is_checked_once_for_all_callers(self, device: SshDevice) -> None:
        clock = FakeClock()
        async with console(options(device), clock) as ssh:
            await ssh.run(":put 1")
            clock.seconds += 61
            await asyncio.gather(*(ssh.run(":put 2") for _ in range(4)))
            assert ssh.counters.checks == 1
            assert ssh.counters.connections == 1
        assert device.commands == [":put 1", ":put ok", *[":put 2"] * 4]

    async def test_a_connection_in_use_is_not_checked(self, device: SshDevice) -> None:
        clock = FakeClock()
        async with console(options(device), clock) as ssh:
            for _ in range(5):
                await ssh.run(":put 1")
                clock.seconds += 59
            assert ssh.counters.checks == 0

    async def test_a_half_open_connection_is_found_and_renewed(self, device: SshDevice) -> None:
        clock = FakeClock()
        times = replace(TIMES, check=SHORT)
        async with Relay(device.port).serve() as relay:
            device.pin(port=relay.port)
            async with console(options(device, relay.port), clock, times) as ssh:
                await ssh.run(":put 1")
                relay.mute()
                clock.seconds += 61
                assert await ssh.run(":put 2") == "ok\n"
                assert ssh.counters.connections == 2
        assert device.commands == [":put 1", ":put 2"]

    async def test_a_device_that_went_away_while_idle_is_dialled_anew(self, device: SshDevice) -> None:
        async with console(options(device)) as ssh:
            await ssh.run(":put 1")
            device.connections[0].abort()
            await device.connections[0].wait_closed()
            # The end of the connection is on its way; whatever is hit, the next command works.
            with contextlib.suppress(Unsent, LostReply):
                await ssh.run(":put 2")
            assert await ssh.run(":put 3") == "ok\n"
