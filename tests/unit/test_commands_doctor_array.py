"""``rds-csi doctor`` on RouterOS arrays: every check, the lines for the user, several arrays, and the probe."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rds_csi.commands.doctor import examine
from rds_csi.commands.doctor.array import examine_array, portals_of
from rds_csi.commands.doctor.findings import Result, State
from rds_csi.commands.doctor.portals import Portal
from rds_csi.errors import ConfigurationError
from rds_csi.settings import Settings, load_settings
from rds_csi.simulator.faults import Fault, FaultKind
from rds_csi.simulator.server import Simulator, SimulatorOptions


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorOptions(directory=tmp_path / "device")) as running:
        running.write_credentials(tmp_path / "credentials")
        yield running


def url(simulator: Simulator, directory: Path, more: str = "") -> str:
    secrets = directory / "credentials"
    keys = f"key-file={secrets}/client_key&known-hosts={secrets}/known_hosts"
    return f"routeros+ssh://csi@127.0.0.1:{simulator.ssh_port}/?pool=raid10&{keys}{more}"


def settings(array: str) -> Settings:
    return load_settings({"array": array})


def subjects(results: list[Result], state: State) -> list[str]:
    return [result.subject for result in results if result.state is state]


async def test_a_well_device_lacks_nothing_and_the_lines_of_its_user_are_told(
    simulator: Simulator, tmp_path: Path
) -> None:
    results = list(await examine_array(settings(url(simulator, tmp_path))))
    assert subjects(results, State.MISSING) == []
    lines = [result.message for result in results if result.subject.startswith("user, line")]
    assert lines[0] == "/user/group/add name=rds-csi policy=ssh,read,write"


async def test_the_lines_are_told_also_when_the_device_is_away(tmp_path: Path) -> None:
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "client_key").write_text("no key")
    array = f"routeros+ssh://csi@127.0.0.1:1/?pool=raid10&key-file={tmp_path}/none&known-hosts={tmp_path}/none"
    results = list(await examine_array(settings(array)))
    assert subjects(results, State.MISSING)
    assert any(result.subject == "user, line 1" for result in results)


async def test_other_arrays_are_told_and_not_looked_at(tmp_path: Path) -> None:
    (result,) = await examine_array(settings(f"local://{tmp_path}/images"))
    assert (result.state, result.message.startswith("a local array is not looked at")) == (State.OK, True)
    assert not (tmp_path / "images").exists()
    assert list(await examine_array(load_settings({}))) == []
    assert portals_of(settings("nvmet://192.0.2.1?backing=/x")) == []


async def test_every_array_of_a_file_is_looked_at_by_its_name(simulator: Simulator, tmp_path: Path) -> None:
    away = "routeros+ssh://csi@127.0.0.1:1/?pool=raid10&key-file=/none&known-hosts=/none&nvme-address=192.0.2.9"
    path = tmp_path / "arrays.toml"
    path.write_text(
        f'default = "a"\n[arrays.a]\nurl = "{url(simulator, tmp_path)}"\n[arrays.b]\nurl = "{away}"\n'
        f'[arrays.c]\nurl = "local://{tmp_path}/c"\n'
    )
    both = settings(f"config://{path}")
    results = list(await examine_array(both))
    assert {result.subject.partition(":")[0] for result in results} == {"a", "b", "c"}
    assert [result.message for result in results if result.subject.startswith("c: ")] == [
        "a local array is not looked at: its server checks it when it starts"
    ]
    assert all(subject.startswith("b: ") for subject in subjects(results, State.MISSING))
    assert list(portals_of(both)) == [Portal("127.0.0.1"), Portal("192.0.2.9")]


async def test_an_array_that_nobody_knows_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    for wrong in ("routeros+shh://csi@192.0.2.1/?pool=x", "routeros+ssh"):
        with pytest.raises(ConfigurationError, match=r"routeros\+ssh"):
            await examine_array(settings(wrong))
    path = tmp_path / "arrays.toml"
    for wrong, told in (("routeros+shh://x", "did you mean"), ("routeros+ssh://csi@192.0.2.1/?pol=x", "unknown key")):
        path.write_text(f'[arrays.b]\nurl = "{wrong}"\n')
        with pytest.raises(ConfigurationError, match=f"array b: .*{told}"):
            await examine_array(settings(f"config://{path}"))
        with pytest.raises(ConfigurationError, match="array b: "):
            portals_of(settings(f"config://{path}"))


async def test_the_driver_s_name_is_that_of_the_settings(simulator: Simulator, tmp_path: Path) -> None:
    named = load_settings({"array": url(simulator, tmp_path), "driver_name": "rds.csi.srvlab.io"})
    told = [result.message for result in await examine_array(named) if result.subject == "marks"]
    assert told == ["0 disks are of driver rds.csi.srvlab.io and cluster default"]


# The probe


async def test_the_probe_writes_a_capture_and_says_what_is_in_it(simulator: Simulator, tmp_path: Path) -> None:
    capture = tmp_path / "capture.json"
    results = list(await examine_array(settings(url(simulator, tmp_path)), probe=True, capture=str(capture)))
    assert subjects(results, State.MISSING) == []
    assert any(result.subject == "probe: growth" for result in results)
    document = json.loads(capture.read_text())
    assert document["answers"]
    assert document["exchanges"]
    assert capture.stat().st_mode & 0o077 == 0


async def test_a_probe_of_a_full_pool_fails_and_is_still_captured(simulator: Simulator, tmp_path: Path) -> None:
    simulator.faults.add(Fault(FaultKind.NO_SPACE, times=0))
    capture = tmp_path / "capture.json"
    results = list(await examine_array(settings(url(simulator, tmp_path)), probe=True, capture=str(capture)))
    assert "probe: size" in subjects(results, State.MISSING)
    assert "probe: nothing left" in subjects(results, State.OK)
    assert json.loads(capture.read_text())["exchanges"]


async def test_a_probe_that_cannot_be_made_as_asked_is_refused(simulator: Simulator, tmp_path: Path) -> None:
    array = url(simulator, tmp_path)
    with pytest.raises(ConfigurationError, match="--probe"):
        await examine_array(settings(array), capture="x")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        await examine_array(settings(array), probe=True, capture=str(tmp_path / "none" / "x"))
    with pytest.raises(ConfigurationError, match="one RouterOS array"):
        await examine_array(settings(f"local://{tmp_path}"), probe=True)
    assert simulator.counters.execs == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_probe_that_is_stopped_removes_everything_and_tells_what_it_found(
    simulator: Simulator, tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = tmp_path / "capture.json"

    def left() -> list[str]:
        items = [item for menu in ("/disk", "/file") for item in simulator.device.menus[menu].items()]
        names = [f"{item.values.get('slot')} {item.values.get('name')}" for item in items]
        return [name for name in names if "rds-csi-probe-" in name]

    async def stop_twice() -> None:
        while not left():  # noqa: ASYNC110  # what is waited for is a line of the simulator's
            await asyncio.sleep(0)
        for _ in range(2):
            signal.raise_signal(number)
            await asyncio.sleep(0)

    stopper = asyncio.create_task(stop_twice())
    array = settings(url(simulator, tmp_path))
    status = await examine(array, portals=(), as_json=False, probe=True, capture=str(capture))
    await stopper
    told = capsys.readouterr()
    assert status == 128 + number
    assert told.err.count("removing rds-csi-probe-") == 2
    assert "probe: nothing left" in told.out
    assert "it was stopped half-way" in told.out
    assert any(answer["question"] == "nothing left" for answer in json.loads(capture.read_text())["answers"])
    assert left() == []


async def test_a_capture_that_cannot_be_written_takes_no_answer_with_it(simulator: Simulator, tmp_path: Path) -> None:
    # No directory entry has such a name, which is seen only when it is written.
    capture = tmp_path / ("c" * 300)
    results = list(await examine_array(settings(url(simulator, tmp_path)), probe=True, capture=str(capture)))
    assert subjects(results, State.MISSING) == ["capture"]
    assert any(result.subject == "probe: growth" for result in results)
