import asyncio
import contextlib
import io
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import httpx
import pytest
from cryptography import x509

from rds_csi.commands.simulate import array_urls, simulate
from rds_csi.errors import ConfigurationError
from rds_csi.simulator.credentials import known_hosts_line
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


@asynccontextmanager
async def silent(simulator: Simulator) -> AsyncIterator[asyncio.StreamReader]:
    """A connection to the REST server on which nobody says a word: it stays in its TLS handshake."""
    reader, writer = await asyncio.open_connection(HOST, simulator.https_port)
    try:
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_connections_in_their_handshake_count_and_break_with_the_others(tmp_path: Path) -> None:
    async with (
        Simulator(SimulatorOptions(directory=tmp_path, max_sessions=2)) as simulator,
        silent(simulator) as first,
        silent(simulator) as second,
        rest(simulator) as client,
    ):
        await until(lambda: simulator.counters.https_connections == 2)
        with pytest.raises(httpx.TransportError):
            await client.get("/disk")
        assert simulator.counters.refused == 1
        simulator.drop_connections()
        async with asyncio.timeout(10):
            assert (await first.read(), await second.read()) == (b"", b"")
        assert (await client.get("/disk")).status_code == 200


async def test_a_request_that_was_kept_waiting_is_not_done_after_a_reboot(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Simulator(SimulatorOptions(directory=tmp_path), sleep=clock.sleep) as simulator:
        simulator.faults.add(Fault(FaultKind.CHANNEL_OPEN_BLOCKED, "https", seconds=9))
        body = {"type": "file", "slot": "a", "file-path": "raid10/a.img", "file-size": "4096"}
        async with rest(simulator) as client:
            asking = asyncio.create_task(client.put("/disk", json=body))
            await clock.somebody_sleeps(9)
            await simulator.reboot()
            clock.advance(9)
            with pytest.raises(httpx.TransportError):
                await asking
            assert (await client.get("/disk?slot=a")).json() == []


async def test_nobody_is_let_in_before_the_last_of_several_reboots_is_over(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        Simulator(SimulatorOptions(directory=tmp_path), sleep=clock.sleep) as simulator,
        rest(simulator) as client,
    ):
        reboots = [asyncio.create_task(simulator.reboot(seconds)) for seconds in (5, 30)]
        await clock.somebody_sleeps(5)
        await clock.somebody_sleeps(30)
        clock.advance(5)
        await reboots[0]
        with pytest.raises(httpx.TransportError):
            await client.get("/disk")
        clock.advance(25)
        await reboots[1]
        assert (await client.get("/disk")).status_code == 200


@pytest.mark.parametrize("kind", [FaultKind.HANG, FaultKind.CHANNEL_OPEN_BLOCKED])
async def test_a_client_that_goes_gives_its_session_back_while_the_server_is_silent(
    tmp_path: Path, kind: FaultKind
) -> None:
    clock = ManualClock()
    async with Simulator(SimulatorOptions(directory=tmp_path, max_sessions=1), sleep=clock.sleep) as simulator:
        simulator.faults.add(Fault(kind, seconds=600))
        async with rest(simulator) as client:
            asking = asyncio.create_task(client.get("/disk"))
            await clock.somebody_sleeps(600)
            asking.cancel()
            await asyncio.wait({asking})
        async with rest(simulator) as client, asyncio.timeout(10):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    assert (await client.get("/disk")).status_code == 200
                    break


def test_a_simulator_that_was_never_entered_leaves_nothing(tmp_path: Path) -> None:
    program = "from rds_csi.simulator.server import *; Simulator(SimulatorOptions())"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


async def set_service(simulator: Simulator, name: str, **values: str) -> None:
    services = simulator.device.services
    item = next(item for item in services.items() if item.values["name"] == name)
    await services.set(item.id, {key.replace("_", "-"): value for key, value in values.items()})


@pytest.mark.parametrize("values", [{"disabled": "yes"}, {"available_from": "10.0.0.0/8,192.0.2.1"}])
async def test_services_let_in_whom_their_settings_admit(tmp_path: Path, values: dict[str, str]) -> None:
    async with Simulator(SimulatorOptions(directory=tmp_path, version="7.24")) as simulator:
        for name in ("ssh", "www-ssl"):
            await set_service(simulator, name, **values)
        with pytest.raises((asyncssh.Error, OSError)):
            async with ssh(simulator):
                pass
        async with rest(simulator) as client:
            with pytest.raises(httpx.TransportError):
                await client.get("/disk")
            for name in ("ssh", "www-ssl"):
                await set_service(simulator, name, disabled="no", available_from="127.0.0.0/8")
            assert (await client.get("/disk")).status_code == 200
        async with ssh(simulator) as connection:
            assert await run(connection, ":put 1") == "1\r\n"


async def test_max_sessions_of_a_service_counts(tmp_path: Path) -> None:
    async with Simulator(SimulatorOptions(directory=tmp_path, max_sessions=7)) as simulator:
        shown = {item.values["name"]: item.values["max-sessions"] for item in simulator.device.services.items()}
        assert (shown["ssh"], shown["www-ssl"]) == (7, 7)
        await set_service(simulator, "ssh", max_sessions="1")
        async with ssh(simulator):
            with pytest.raises((asyncssh.Error, OSError)):
                async with ssh(simulator):
                    pass


async def test_a_user_comes_from_the_networks_of_its_address_only(tmp_path: Path) -> None:
    async with Simulator(SimulatorOptions(directory=tmp_path)) as simulator, rest(simulator) as client:
        user = simulator.device.users.named("csi")
        assert user is not None
        await simulator.device.users.set(user.id, {"address": "10.0.0.0/8"})
        assert (await client.get("/disk")).status_code == 401
        with pytest.raises(asyncssh.PermissionDenied):
            async with ssh(simulator):
                pass
        await simulator.device.users.set(user.id, {"address": "10.0.0.0/8,127.0.0.1"})
        assert (await client.get("/disk")).status_code == 200
        async with ssh(simulator):
            pass


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


@pytest.mark.parametrize(
    ("port", "known"), [(22, "rds.example,192.0.2.1"), (2222, "[rds.example]:2222,[192.0.2.1]:2222")]
)
def test_known_hosts_name_every_host_at_its_port(port: int, known: str) -> None:
    assert known_hosts_line(("rds.example", "192.0.2.1"), port, "ssh-ed25519 AAAA") == f"{known} ssh-ed25519 AAAA\n"


async def test_names_are_in_urls_certificate_and_known_hosts(tmp_path: Path) -> None:
    options = SimulatorOptions(directory=tmp_path, host="0.0.0.0", names=("rds.example", "192.0.2.1"))
    async with Simulator(options) as simulator:
        files = simulator.write_credentials(tmp_path / "credentials")
        urls = array_urls(simulator, files)
        assert [url.split("@")[1].split("/")[0] for url in urls] == [
            f"rds.example:{simulator.ssh_port}",
            f"rds.example:{simulator.https_port}",
        ]
        certificate = x509.load_pem_x509_certificate(files.tls_certificate.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["rds.example", "localhost"]
        assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1", "127.0.0.1"]
        known = asyncssh.read_known_hosts(str(files.known_hosts))
        assert known.match("rds.example", "", simulator.ssh_port)[0]


async def test_without_names_a_server_on_all_addresses_is_reached_on_this_machine(tmp_path: Path) -> None:
    async with Simulator(SimulatorOptions(directory=tmp_path, host="0.0.0.0")) as simulator:
        files = simulator.write_credentials(tmp_path / "credentials")
        assert all("@127.0.0.1:" in url for url in array_urls(simulator, files))
        async with rest(simulator) as client:
            assert (await client.get("/disk")).status_code == 200


async def test_the_command_ends_at_a_hangup(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    running = asyncio.create_task(simulate(SimulatorOptions(directory=tmp_path)))
    await until(lambda: running.done() or "Ctrl-C" in capsys.readouterr().out)
    assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL, "the signal would end the tests"
    os.kill(os.getpid(), signal.SIGHUP)
    assert await running == 0


async def test_a_hangup_that_is_ignored_stays_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = asyncio.create_task(simulate(SimulatorOptions(directory=tmp_path)))
        await until(lambda: running.done() or "Ctrl-C" in capsys.readouterr().out)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["file", "file/below"])
async def test_the_command_says_when_a_directory_cannot_be_used(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be used"):
        await simulate(SimulatorOptions(directory=tmp_path / name))


@pytest.mark.parametrize(
    ("pool", "text"),
    [
        (PoolOptions("small", size=32 << 20), "no room for what other tenants keep"),
        (PoolOptions("swap"), "a disk of another tenant is called swap"),
    ],
)
async def test_the_command_says_when_the_tenants_do_not_go_with_a_pool(
    tmp_path: Path, pool: PoolOptions, text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        await simulate(SimulatorOptions(directory=tmp_path, pools=(pool,)))
    async with Simulator(SimulatorOptions(directory=tmp_path, pools=(pool,), seed_tenants=False)):
        pass


async def test_a_reader_that_has_gone_is_not_taken_for_a_port_that_is_taken(tmp_path: Path) -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    with contextlib.redirect_stdout(Closed()), pytest.raises(BrokenPipeError):
        await simulate(SimulatorOptions(directory=tmp_path))


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
