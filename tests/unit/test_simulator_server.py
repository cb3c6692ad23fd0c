import asyncio
import os
import signal
import ssl
from pathlib import Path

import asyncssh
import httpx
import pytest

from rds_csi.commands.simulate import simulate
from rds_csi.errors import ConfigurationError
from rds_csi.simulator.device_options import DeviceOptions, PoolOptions, UserOptions
from rds_csi.simulator.faults import Fault, FaultKind
from rds_csi.simulator.server import Simulator, SimulatorOptions
from tests.support.simulators import HOST, ManualClock, rest, run, ssh, until, until_listed


async def test_both_servers_show_one_device(tmp_path: Path) -> None:
    async with (
        Simulator(SimulatorOptions(directory=tmp_path, seed_tenants=False)) as simulator,
        ssh(simulator) as connection,
        rest(simulator) as client,
    ):
        await run(connection, "/disk add type=file slot=a file-path=raid10/a.img file-size=1048576")
        assert [each["slot"] for each in (await client.get("/disk?type=file")).json()] == ["a"]


async def test_the_written_credentials_open_both_doors(tmp_path: Path) -> None:
    async with Simulator(SimulatorOptions(directory=tmp_path)) as simulator:
        files = simulator.write_credentials(tmp_path / "credentials")
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "credentials").iterdir()} == {0o600}
        async with asyncssh.connect(
            HOST,
            simulator.ssh_port,
            username="csi",
            client_keys=[str(files.client_key)],
            known_hosts=str(files.known_hosts),
            config=None,
        ) as connection:
            assert await run(connection, ":put 1") == "1\r\n"
        context = ssl.create_default_context(cafile=str(files.tls_ca))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        password = files.password.read_text().strip()
        assert files.users.read_text().splitlines()[0] == f"csi:{password}"
        async with httpx.AsyncClient(verify=context, auth=("csi", password)) as client:
            reply = await client.get(f"https://localhost:{simulator.https_port}/rest/system/resource")
            assert reply.status_code == 200
        assert len(files.fingerprint) == 64


async def test_the_fingerprint_is_that_of_the_certificate_that_is_shown(tmp_path: Path) -> None:
    async with Simulator(SimulatorOptions(directory=tmp_path, ssh_port=None)) as simulator:
        files = simulator.write_credentials(tmp_path / "credentials")
        pem = await asyncio.to_thread(ssl.get_server_certificate, (HOST, simulator.https_port))
        assert pem.split() == files.tls_certificate.read_text().split()


async def test_an_expired_certificate_is_refused_by_clients(tmp_path: Path) -> None:
    async with (
        Simulator(SimulatorOptions(directory=tmp_path, certificate_days=-1)) as simulator,
        rest(simulator) as client,
    ):
        with pytest.raises(httpx.ConnectError, match="expired"):
            await client.get("/disk")


async def test_tls_is_1_2_at_most(tmp_path: Path) -> None:
    async with Simulator(SimulatorOptions(directory=tmp_path)) as simulator:
        context = ssl.create_default_context(cadata=simulator.tls_ca.decode())
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        async with httpx.AsyncClient(verify=context) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"https://{HOST}:{simulator.https_port}/rest/disk")


async def test_a_server_can_be_left_out(tmp_path: Path) -> None:
    async with Simulator(SimulatorOptions(directory=tmp_path, https_port=None)) as simulator:
        assert (bool(simulator.ssh_port), simulator.https_port, simulator.control_port) == (True, 0, 0)


async def test_a_temporary_directory_goes_with_the_simulator() -> None:
    async with Simulator(SimulatorOptions()) as simulator:
        directory = simulator.directory
        assert (directory / "pools" / "raid10").is_dir()
    assert not directory.exists()


async def test_a_device_of_ones_own_gets_the_users_too(tmp_path: Path) -> None:
    device = DeviceOptions(directory=tmp_path, pools=(PoolOptions("tank", filesystem="btrfs"),), seed_tenants=False)
    options = SimulatorOptions(device=device, users=(UserOptions("me", "full", password="secret"),))
    async with Simulator(options) as simulator, rest(simulator, "me", "secret") as client:
        assert [each["slot"] for each in (await client.get("/disk?type=raid")).json()] == ["tank"]


async def test_a_reboot_breaks_connections_and_keeps_the_state(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Simulator(SimulatorOptions(directory=tmp_path), sleep=clock.sleep, now=clock.now) as simulator:
        async with ssh(simulator) as connection, rest(simulator) as client:
            await run(connection, "/disk add type=file slot=a file-path=raid10/a.img file-size=1048576")
            waiting = asyncio.create_task(run(connection, ":delay 100s"))
            asking = asyncio.create_task(client.post("/execute", json={"script": ":delay 200s", "as-string": ""}))
            await clock.somebody_sleeps(100)
            await clock.somebody_sleeps(200)
            reboot = asyncio.create_task(simulator.reboot(30))
            await clock.somebody_sleeps(30)
            # The process ends without an exit status, or with the error of the connection.
            await asyncio.gather(waiting, return_exceptions=True)
            with pytest.raises(httpx.RemoteProtocolError):
                await asking
            assert connection.is_closed()
            with pytest.raises((asyncssh.ConnectionLost, ConnectionError)):
                async with ssh(simulator):
                    pass
            with pytest.raises(httpx.TransportError):
                await client.get("/disk")
            clock.advance(30)
            await reboot
            assert [each["slot"] for each in (await client.get("/disk?slot=a")).json()] == ["a"]
        async with ssh(simulator) as connection:
            assert await run(connection, ":put [/disk get [find slot=a] size]") == "1048576\r\n"


async def test_dropped_connections_do_not_stop_what_runs(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        Simulator(SimulatorOptions(directory=tmp_path), sleep=clock.sleep) as simulator,
        rest(simulator) as client,
    ):
        script = ":delay 7s; /disk add type=file slot=late file-path=raid10/late.img file-size=1048576"
        asking = asyncio.create_task(client.post("/execute", json={"script": script, "as-string": ""}))
        await clock.somebody_sleeps(7)
        simulator.drop_connections()
        with pytest.raises(httpx.RemoteProtocolError):
            await asking
        clock.advance(7)
        await until_listed(client, "late")


async def test_it_ends_with_whatever_is_open(tmp_path: Path) -> None:
    faults = (Fault(FaultKind.HANG, "hang", times=0), Fault(FaultKind.CHANNEL_OPEN_BLOCKED, "ssh", times=1))
    async with (
        Simulator(SimulatorOptions(directory=tmp_path, faults=faults)) as simulator,
        ssh(simulator) as connection,
        rest(simulator) as client,
    ):
        tasks = [
            asyncio.create_task(connection.run(":put blocked")),
            asyncio.create_task(connection.run(":put hang")),
            asyncio.create_task(connection.run(":delay 1h")),
            asyncio.create_task(connection.run(':execute ":delay 1h"')),
            asyncio.create_task(client.get("/disk?hang=1")),
        ]
        await until(lambda: simulator.counters.channels >= 1)
        # Nobody reads what this one prints, so it stops in the middle.
        await connection.create_process(":for i from=1 to=100000 do={ :put $i }", window=100)
        await until(lambda: simulator.counters.execs >= 4 and simulator.counters.requests >= 1)
        async with asyncio.timeout(10):
            await simulator.__aexit__(None, None, None)
        await asyncio.gather(*tasks, return_exceptions=True)
    assert len(asyncio.all_tasks()) == 1


async def test_a_port_that_is_taken_leaves_nothing_behind(tmp_path: Path) -> None:
    async with Simulator(SimulatorOptions(directory=tmp_path / "a")) as simulator:
        taken = SimulatorOptions(directory=tmp_path / "b", https_port=simulator.https_port)
        with pytest.raises(OSError, match="in use"):
            async with Simulator(taken):
                pass
    assert len(asyncio.all_tasks()) == 1


async def test_latency_delays_every_round_trip(tmp_path: Path) -> None:
    async with Simulator(SimulatorOptions(directory=tmp_path, latency=0.02)) as simulator:
        loop = asyncio.get_running_loop()
        async with ssh(simulator) as connection, rest(simulator) as client:
            begun = loop.time()
            # A channel, and a script.
            assert await run(connection, ":put 1") == "1\r\n"
            assert loop.time() - begun >= 2 * 0.02
            await client.get("/disk")
            begun = loop.time()
            assert (await client.get("/disk")).status_code == 200
            assert loop.time() - begun >= 0.02
    assert len(asyncio.all_tasks()) == 1


async def test_the_command_prints_urls_and_ends_at_a_signal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = SimulatorOptions(directory=tmp_path, control_port=0, pools=(PoolOptions("tank", filesystem="btrfs"),))
    running = asyncio.create_task(simulate(options))
    printed: list[str] = []

    def is_up() -> bool:
        printed.append(capsys.readouterr().out)
        return "Ctrl-C" in printed[-1]

    await until(is_up)
    text = "".join(printed)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0
    secrets = f"key-file={tmp_path}/credentials/client_key&known-hosts={tmp_path}/credentials/known_hosts"
    assert "--array 'routeros+ssh://csi@127.0.0.1:" in text
    assert f"/?pool=tank&snapshots=btrfs-subvolume&{secrets}'" in text
    assert "--array 'routeros+https://csi@127.0.0.1:" in text


async def test_the_command_says_when_an_address_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="other addresses"):
        await simulate(SimulatorOptions(directory=tmp_path, host="203.0.113.1"))


async def test_the_command_wants_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "pools").mkdir()
    with pytest.raises(ConfigurationError, match="not empty"):
        await simulate(SimulatorOptions(directory=tmp_path))


async def test_a_user_of_the_options_wins_over_the_usual_admin(tmp_path: Path) -> None:
    options = SimulatorOptions(directory=tmp_path, users=(UserOptions("admin", "full", password="known"),))
    async with Simulator(options) as simulator:
        assert [user.name for user in simulator.users] == ["admin"]
        assert simulator.password("admin") == "known"
