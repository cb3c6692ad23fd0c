import argparse
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from rds_csi.errors import ConfigurationError
from rds_csi.simulator.device_options import PoolOptions
from rds_csi.simulator.faults import Fault, FaultKind
from rds_csi.simulator.flags import add_flags, options_from
from rds_csi.simulator.options import SimulatorOptions
from rds_csi.simulator.server import Simulator
from tests.support.simulators import HOST, rest

NEW = {"type": "file", "slot": "a", "file-path": "raid10/a.img", "file-size": "1048576"}


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorOptions(directory=tmp_path, control_port=0, seed_tenants=False)) as simulator:
        yield simulator


@pytest.fixture
async def control(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{simulator.control_port}", trust_env=False) as client:
        yield client


async def test_faults_are_added_listed_and_cleared(simulator: Simulator, control: httpx.AsyncClient) -> None:
    shown = (await control.post("/faults", json={"kind": "lose-reply", "match": "x", "times": 2, "skip": 1})).json()
    assert shown == {"kind": "lose-reply", "match": "x", "times": 2, "seconds": 0.0, "skip": 1}
    assert (await control.get("/faults")).json() == {"waiting": [shown], "hits": {}}
    assert simulator.faults.waiting == (Fault(FaultKind.LOSE_REPLY, "x", 2, skip=1),)
    await control.delete("/faults?kind=hang")
    assert simulator.faults.waiting
    await control.delete("/faults")
    assert not simulator.faults.waiting


async def test_an_asked_for_fault_strikes(simulator: Simulator, control: httpx.AsyncClient) -> None:
    await control.post("/faults", json={"kind": "drop-before"})
    async with rest(simulator) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/disk")
    assert (await control.get("/faults")).json() == {"waiting": [], "hits": {"drop-before": 1}}


async def test_counters_are_read_and_reset(simulator: Simulator, control: httpx.AsyncClient) -> None:
    async with rest(simulator) as client:
        await client.get("/disk")
    assert (await control.get("/counters")).json()["requests"] == 1
    await control.delete("/counters")
    assert set((await control.get("/counters")).json().values()) == {0}


async def test_items_are_changed_by_hand(simulator: Simulator, control: httpx.AsyncClient) -> None:
    item_id = (await control.post("/add", json={"menu": "/disk", "values": NEW})).json()[".id"]
    await control.post("/set", json={"menu": "/disk", "item": "a", "values": {"comment": "edited", "slot": "renamed"}})
    (shown,) = [each for each in (await control.get("/state?menu=/disk")).json()["/disk"] if each[".id"] == item_id]
    assert (shown["comment"], shown["slot"]) == ("edited", "renamed")
    await control.post("/remove", json={"menu": "/disk", "item": "renamed"})
    assert simulator.device.menus["/disk"].item(item_id) is None
    await control.post("/remove", json={"menu": "/file", "item": "raid10/a.img"})
    assert "/disk" in (await control.get("/state")).json()


async def test_the_device_reboots_when_asked(simulator: Simulator, control: httpx.AsyncClient) -> None:
    async with rest(simulator) as client:
        await client.get("/disk")
        assert (await control.post("/reboot", json={"seconds": 0})).status_code == 200
        while simulator.device.reboots < 1:
            await control.get("/counters")
        assert (await client.get("/disk")).status_code == 200
    assert simulator.counters.https_connections >= 2


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("POST", "/faults", {"kind": "quick"}, 400),
        ("POST", "/faults", {"kind": "slow", "colour": 1}, 400),
        ("POST", "/faults", {"kind": "slow", "seconds": -1}, 400),
        ("POST", "/faults", {"kind": "slow", "seconds": "long"}, 400),
        ("POST", "/faults", {"kind": "slow", "times": 1.5}, 400),
        ("POST", "/faults", {"kind": "slow", "skip": 0.5}, 400),
        ("POST", "/reboot", {"seconds": 10**400}, 400),
        ("POST", "/set", {"menu": "/disk", "item": "raid10", "values": {"comment": {}}}, 400),
        ("POST", "/set", {"menu": "/nothing"}, 400),
        ("POST", "/set", {"menu": "/disk", "item": "nothing"}, 400),
        ("POST", "/set", {"menu": "/disk", "item": "raid10", "values": 1}, 400),
        ("POST", "/faults", [], 400),
    ],
)
async def test_wrong_requests_are_told(
    control: httpx.AsyncClient, method: str, path: str, body: object, status: int
) -> None:
    reply = await control.request(method, path, json=body)
    assert reply.status_code == status
    assert reply.json()["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/faults", '{"kind": "slow", "times": Infinity}'),
        ("/reboot", '{"seconds": NaN}'),
        ("/reboot", "[" * 100_000),
        ("/set", '{"menu": "/disk", "item": "raid10", "values": {"comment": "\\ud800"}}'),
    ],
)
async def test_what_json_writers_should_not_write_is_told(control: httpx.AsyncClient, path: str, body: str) -> None:
    reply = await control.post(path, content=body)
    assert (reply.status_code, bool(reply.json()["error"])) == (400, True)


def parsed(*argv: str, **environ: str) -> SimulatorOptions:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return options_from(parser.parse_args(argv), {f"RDS_CSI_SIMULATE_{name}": text for name, text in environ.items()})


def test_flags_have_defaults() -> None:
    options = parsed()
    assert (options.host, options.ssh_port, options.https_port, options.control_port) == (HOST, 2222, 8443, None)
    assert (options.directory, options.users[0].name, options.seed_tenants) == (None, "csi", True)
    assert options.pools == (PoolOptions(),)


def test_flags_say_everything(tmp_path: Path) -> None:
    options = parsed(
        *("--ssh", "192.0.2.1:22", "--https", "[::1]:443", "--control", "127.0.0.1:9", "--directory", str(tmp_path)),
        *("--routeros-version", "7.24", "--pool", "a:btrfs:2G", "--pool", "b:xfs:1073741824", "--user", "me"),
        *("--fault", "slow:x:2:1", "--fault", "hang", "--latency", "0.05", "--max-channels", "3", "--tenants", "no"),
        *("--nvmet", "192.0.2.1"),
    )
    assert (options.host, options.ssh_port, options.https_host, options.https_port) == ("192.0.2.1", 22, "::1", 443)
    assert (options.control_host, options.control_port, options.directory) == (HOST, 9, tmp_path)
    assert [(pool.slot, pool.filesystem, pool.size) for pool in options.pools] == [
        ("a", "btrfs", 2 << 30),
        ("b", "xfs", 1 << 30),
    ]
    assert (options.version, options.users[0].name, options.latency, options.max_channels) == ("7.24", "me", 0.05, 3)
    assert options.faults == (Fault(FaultKind.SLOW, "x", 2, 1), Fault(FaultKind.HANG))
    assert (options.seed_tenants, options.nvmet_address) == (False, "192.0.2.1")


def test_names_and_pools_can_be_repeated() -> None:
    options = parsed("--name", "rds.example", "--name", "[2001:db8::1]", "--pool", "a:xfs:1G", "--pool", "b:xfs:1G")
    assert (options.names, len(options.pools)) == (("rds.example", "2001:db8::1"), 2)
    assert parsed(NAME="a b").names == ("a", "b")


def test_two_pools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="--pool: 2 pools are called a"):
        parsed("--pool", "a:xfs:1G", "--pool", "a:btrfs:1G")


def test_the_environment_counts_when_a_flag_is_absent() -> None:
    options = parsed("--user", "flag", USER="environment", FAULT="hang slow:x", ROUTEROS_VERSION="7.17")
    assert (options.users[0].name, options.version) == ("flag", "7.17")
    assert [fault.kind for fault in options.faults] == [FaultKind.HANG, FaultKind.SLOW]


@pytest.mark.parametrize(
    "argv",
    [
        ("--ssh", "2222"),
        ("--ssh", "localhost:2222"),
        ("--https", "127.0.0.1:99999"),
        ("--control", "192.0.2.1:80"),
        ("--routeros-version", "seven"),
        ("--routeros-version", "6.49"),
        ("--pool", "a:zfs:1G"),
        ("--pool", "a:xfs:0"),
        ("--pool", "..:xfs:1T"),
        ("--pool", ".:xfs:1T"),
        ("--pool", "nvme1:xfs:1T"),
        ("--pool", f"{'a' * 33}:xfs:1T"),
        ("--pool", f"a:xfs:{'9' * 5000}"),
        ("--fault", "slow::1:inf"),
        ("--name", "two words"),
        ("--name", "0.0.0.0"),
        ("--name", "10.0.0"),
        ("--fault", "quick"),
        ("--latency", "nan"),
        ("--max-channels", "0"),
        ("--tenants", "maybe"),
        ("--nvmet", "0.0.0.0"),
    ],
)
def test_a_wrong_flag_is_named(argv: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=argv[0]):
        parsed(*argv)
