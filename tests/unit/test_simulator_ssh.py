import asyncio
from pathlib import Path

import asyncssh
import pytest

from rds_csi.simulator.device_options import GroupOptions, UserOptions
from rds_csi.simulator.faults import Fault, FaultKind
from rds_csi.simulator.server import Simulator, SimulatorOptions
from tests.support.simulators import HOST, ManualClock, run, ssh, until


def options(directory: Path, **more: object) -> SimulatorOptions:
    return SimulatorOptions(directory=directory, https_port=None, seed_tenants=False, **more)  # type: ignore[arg-type]  # as given


async def test_exec_prints_on_stdout_with_crlf_and_status_0(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path)) as simulator, ssh(simulator) as connection:
        result = await connection.run(":put 1; :put 2", encoding="utf-8")
    assert (result.stdout, result.stderr, result.exit_status) == ("1\r\n2\r\n", "", 0)


async def test_an_error_comes_on_stdout_with_status_0(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path)) as simulator, ssh(simulator) as connection:
        result = await connection.run("/foo", encoding="utf-8")
    assert result.stdout == "bad command name foo (line 1 column 2)\r\n"
    assert (result.stderr, result.exit_status) == ("", 0)


async def test_an_error_can_have_another_status(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path, exit_status=1)) as simulator, ssh(simulator) as connection:
        assert (await connection.run("/disk remove *999")).exit_status == 1
        assert (await connection.run(":put 1")).exit_status == 0


async def test_what_is_done_over_ssh_is_done_on_the_device(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path)) as simulator, ssh(simulator) as connection:
        item_id = await run(connection, ":put [/disk add type=file slot=a file-path=raid10/a.img file-size=1048576]")
        assert simulator.device.menus["/disk"].item(item_id.strip()) is not None
        assert (tmp_path / "pools" / "raid10" / "a.img").stat().st_size == 1048576


async def test_many_channels_of_one_connection_run_at_once(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path)) as simulator, ssh(simulator) as connection:
        texts = await asyncio.gather(*(run(connection, f":put {number}") for number in range(6)))
        assert texts == [f"{number}\r\n" for number in range(6)]
        assert simulator.counters.as_dict() == {
            **dict.fromkeys(simulator.counters.as_dict(), 0),
            "ssh_connections": 1,
            "connections": 1,
            "logins": 1,
            "channels": 6,
            "execs": 6,
        }


async def test_long_output_arrives_whole(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path)) as simulator, ssh(simulator) as connection:
        text = await run(connection, ":for i from=1 to=3000 do={ :put $i }")
    assert text.splitlines() == [str(number) for number in range(1, 3001)]


@pytest.mark.parametrize("algorithm", ["ssh-rsa", "ssh-ed25519"])
async def test_rsa_and_ed25519_keys_of_users_are_taken(tmp_path: Path, algorithm: str) -> None:
    key = asyncssh.generate_private_key(algorithm)
    line = key.export_public_key("openssh").decode()
    async with (
        Simulator(options(tmp_path, users=(UserOptions("me", keys=(line,)),))) as simulator,
        ssh(simulator, "me", client_keys=[key]) as connection,
    ):
        assert await run(connection, ":put 1") == "1\r\n"


async def test_ecdsa_keys_of_users_are_refused(tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    line = key.export_public_key("openssh").decode()
    async with Simulator(options(tmp_path, users=(UserOptions("me", keys=(line,)),))) as simulator:
        with pytest.raises(asyncssh.PermissionDenied):
            async with ssh(simulator, "me", client_keys=[key]):
                pass


async def test_strangers_and_foreign_keys_are_refused(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path)) as simulator:
        for user, keys in (("nobody", {}), ("csi", {"client_keys": [asyncssh.generate_private_key("ssh-ed25519")]})):
            with pytest.raises(asyncssh.PermissionDenied):
                async with ssh(simulator, user, **keys):
                    pass
        assert simulator.counters.denials >= 2


async def test_a_user_with_a_key_has_no_password(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path)) as simulator:
        with pytest.raises(asyncssh.PermissionDenied):
            async with ssh(simulator, client_keys=None, password=simulator.password("csi")):
                pass


async def test_a_user_without_the_policy_ssh_is_refused(tmp_path: Path) -> None:
    groups = (GroupOptions("web", frozenset({"read", "write", "api", "rest-api"})),)
    async with Simulator(options(tmp_path, groups=groups, users=(UserOptions("me", "web"),))) as simulator:
        with pytest.raises(asyncssh.PermissionDenied):
            async with ssh(simulator, "me"):
                pass


async def test_terminal_wishes_behind_the_name_are_taken(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path)) as simulator, ssh(simulator, "csi+ct511w") as connection:
        assert await run(connection, ":put 1") == "1\r\n"


async def test_the_host_key_of_another_device_is_not_trusted(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path / "a")) as simulator, Simulator(options(tmp_path / "b")) as other:
        key = asyncssh.import_public_key(other.host_public_key)
        with pytest.raises(asyncssh.HostKeyNotVerifiable):
            async with ssh(simulator, known_hosts=([key], [], [])):
                pass


async def test_sftp_is_not_offered(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path)) as simulator, ssh(simulator) as connection:
        with pytest.raises(asyncssh.Error):
            await connection.start_sftp_client()


async def test_a_shell_is_told_that_there_is_none(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path)) as simulator, ssh(simulator) as connection:
        result = await connection.run(encoding="utf-8")
        assert "runs commands only" in str(result.stdout)
        assert result.exit_status == 1
        with pytest.raises(asyncssh.Error):
            await connection.run(":put 1", term_type="xterm")


async def test_a_channel_beyond_the_cap_waits_for_another_to_close(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path, max_channels=1)) as simulator, ssh(simulator) as connection:
        simulator.faults.add(Fault(FaultKind.HANG, ":put 1"))
        first = await connection.create_process(":put 1")
        second = asyncio.create_task(run(connection, ":put 2"))
        await until(lambda: simulator.counters.channels >= 2)
        assert simulator.counters.execs == 1
        assert not second.done()
        first.close()
        assert await second == "2\r\n"


async def test_a_channel_beyond_the_cap_can_be_refused(tmp_path: Path) -> None:
    given = options(tmp_path, max_channels=1, channels_block=False)
    async with Simulator(given) as simulator, ssh(simulator) as connection:
        simulator.faults.add(Fault(FaultKind.HANG, ":put 1"))
        await connection.create_process(":put 1")
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.run(":put 2")


async def test_channel_opens_can_take_their_time(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        Simulator(options(tmp_path, channel_delay=5), sleep=clock.sleep) as simulator,
        ssh(simulator) as connection,
    ):
        reply = asyncio.create_task(run(connection, ":put 1"))
        await clock.somebody_sleeps(5)
        assert simulator.counters.execs == 0
        clock.advance(5)
        assert await reply == "1\r\n"


async def test_connections_beyond_the_limit_are_closed_at_once(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path, max_sessions=2)) as simulator:
        async with ssh(simulator), ssh(simulator) as second:
            with pytest.raises((asyncssh.ConnectionLost, ConnectionError)):
                async with ssh(simulator):
                    pass
            second.abort()
            await second.wait_closed()
            await until(lambda: not (simulator.device.menus["/user/active"].items()[1:]))
            async with ssh(simulator) as third:
                assert await run(third, ":put 1") == "1\r\n"
        assert simulator.counters.refused == 1


async def test_sessions_are_listed_while_they_last(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path)) as simulator, ssh(simulator):
        (item,) = simulator.device.menus["/user/active"].items()
        assert (item.values["name"], item.values["address"], item.values["via"]) == ("csi", HOST, "ssh")


async def test_a_script_goes_on_when_its_client_is_gone(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Simulator(options(tmp_path), sleep=clock.sleep) as simulator:
        async with ssh(simulator) as connection:
            await connection.create_process(
                ":delay 30s; /disk add type=file slot=a file-path=raid10/a.img file-size=1048576"
            )
            await clock.somebody_sleeps(30)
        clock.advance(30)
        await until(lambda: any(item.values["slot"] == "a" for item in simulator.device.menus["/disk"].items()))


async def test_a_user_does_only_what_the_group_may(tmp_path: Path) -> None:
    groups = (GroupOptions("look", frozenset({"ssh", "read"})),)
    given = options(tmp_path, groups=groups, users=(UserOptions("me", "look"),))
    async with Simulator(given) as simulator, ssh(simulator, "me") as connection:
        assert "raid10" in await run(connection, "/disk print")
        refused = await run(connection, "/disk add type=file slot=a file-path=raid10/a.img file-size=1048576")
        assert refused == "not enough permissions (9)\r\n"
