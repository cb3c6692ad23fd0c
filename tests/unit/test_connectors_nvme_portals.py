"""Several portals, attempts of the keeper, drops, deadlines and odd programs: on made-up trees."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rds_csi.connectors.nvme_addresses import Addresses, addresses_of
from rds_csi.connectors.nvme_failures import Reason
from rds_csi.deadline import set_deadline
from rds_csi.errors import FailedPrecondition, InvalidArgument, Unavailable
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from rds_csi.retry import Transient
from tests.support.nvme_bench import ATTEMPTS, CONFIG, NQN, TARGET, UUID, NvmeBench

BOTH = NvmeTarget(NQN, ("192.0.2.1", "192.0.2.2"), 4420, UUID)
REFUSED = "Failed to write to /dev/nvme-fabrics: Connection refused"


@pytest.fixture(params=["nvme-cli", "fabrics"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> NvmeBench:
    made = NvmeBench(tmp_path, link=request.param)
    made.runner.on(*made.connect_program, effect=made.export())
    made.let_disconnect()
    return made


@pytest.fixture(params=["nvme-cli", "fabrics"])
def unscripted(tmp_path: Path, request: pytest.FixtureRequest) -> NvmeBench:
    """Its programs do what the test says, and no more."""
    return NvmeBench(tmp_path, link=request.param)


@pytest.fixture
def cli(tmp_path: Path) -> NvmeBench:
    return NvmeBench(tmp_path)


async def paths(bench: NvmeBench) -> list[str]:
    session = await bench.connector.resolver.session(NQN)
    return [controller.traddr for controller in session.controllers] if session is not None else []


async def test_all_portals_become_paths(cli: NvmeBench) -> None:
    cli.runner.on("nvme", "connect", effect=cli.export())
    assert (await cli.connector.connect(BOTH, CONFIG)).created
    assert sorted(await paths(cli)) == list(BOTH.addresses)


@pytest.mark.parametrize(
    "addresses",
    [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:DB8:0:0::1"), ("localhost", "localhost")],
)
async def test_an_address_that_is_given_twice_is_one_portal(tmp_path: Path, addresses: tuple[str, ...]) -> None:
    bench = NvmeBench(tmp_path)
    bench.runner.on(*bench.connect_program, effect=bench.export())
    await bench.connector.connect(NvmeTarget(NQN, addresses, 4420, UUID), CONFIG)
    assert bench.connects == 1


async def test_names_of_one_portal_are_one_portal() -> None:
    async def call(function: Callable[[], str]) -> str:
        return function()

    names = {"a.example.org": "192.0.2.1", "b.example.org": "192.0.2.2", "c.example.org": "192.0.2.1"}
    target = NvmeTarget(NQN, (*names, "192.0.2.2"), 4420, UUID)
    found = await addresses_of(target, call, lambda name, _: names[name])
    assert found == Addresses(("192.0.2.1", "192.0.2.2"), ())


async def test_a_mute_portal_never_reaches_the_kernel(bench: NvmeBench) -> None:
    bench.portals["192.0.2.1"] = Reason.TIMED_OUT
    with pytest.raises(Unavailable, match=f"192.0.2.1:4420.*did not answer in time.*after {ATTEMPTS} attempts"):
        await bench.connector.connect(TARGET, CONFIG)
    assert bench.runner.calls == []


async def test_a_portal_that_speaks_something_else_fails_at_once(bench: NvmeBench) -> None:
    bench.portals["192.0.2.1"] = Reason.NO_NVME
    with pytest.raises(FailedPrecondition, match="does not speak NVMe/TCP"):
        await bench.connector.connect(TARGET, CONFIG)
    assert bench.sample("rds_csi_nvme_connect_attempts_total") == 1


async def test_a_portal_that_cannot_be_asked_is_left_to_the_kernel(bench: NvmeBench) -> None:
    bench.portals["192.0.2.1"] = Reason.UNTOLD
    assert (await bench.connector.connect(TARGET, CONFIG)).created


async def test_an_attempt_connects_only_what_the_session_lacks(bench: NvmeBench) -> None:
    await bench.connector.connect(TARGET, CONFIG)
    await bench.connector.attempt(BOTH, CONFIG)
    assert await paths(bench) == list(BOTH.addresses)
    assert bench.connects == 2
    await bench.connector.attempt(BOTH, CONFIG)
    assert bench.connects == 2


async def test_an_attempt_brings_back_a_session_that_the_kernel_gave_up(bench: NvmeBench) -> None:
    await bench.connector.attempt(BOTH, CONFIG)
    assert sorted(await paths(bench)) == list(BOTH.addresses)


async def test_an_attempt_gives_its_paths_every_value_of_the_config(bench: NvmeBench) -> None:
    await bench.connector.attempt(TARGET, ConnectionConfig(reconnect_delay=2, fast_io_fail_tmo=30))
    assert bench.tree.path("sys/class/nvme/nvme0/fast_io_fail_tmo").read_text().startswith("30")


async def test_an_attempt_tells_the_portal_that_failed_and_keeps_the_other(bench: NvmeBench) -> None:
    bench.portals["192.0.2.1"] = Reason.REFUSED
    with pytest.raises(Transient, match=r"192.0.2.1:4420: the portal refused"):
        await bench.connector.attempt(BOTH, CONFIG)
    assert await paths(bench) == ["192.0.2.2"]
    assert bench.disconnects == 0


@pytest.mark.parametrize("state", ["live", "connecting"])
async def test_without_multipath_an_attempt_makes_no_second_disk(tmp_path: Path, state: str) -> None:
    bench = NvmeBench(tmp_path, multipath=False)
    bench.tree.add_session(NQN, state=state)
    await bench.connector.attempt(BOTH, CONFIG)
    assert bench.runner.calls == []


async def test_without_multipath_an_attempt_takes_the_first_portal_that_works(tmp_path: Path) -> None:
    bench = NvmeBench(tmp_path, multipath=False)
    bench.portals["192.0.2.1"] = Reason.REFUSED
    bench.runner.on(*bench.connect_program, effect=bench.export())
    await bench.connector.attempt(BOTH, CONFIG)
    assert await paths(bench) == ["192.0.2.2"]


async def test_a_cancelled_attempt_takes_away_only_what_it_made(cli: NvmeBench) -> None:
    cli.tree.add_session(NQN)
    cli.runner.on("nvme", "connect", hang=True)
    removed: list[str] = []

    def disconnect(argv: tuple[str, ...]) -> None:
        removed.append(argv[3])
        cli.tree.path("sys/class/nvme-subsystem/nvme-subsys0/nvme1").unlink()

    cli.runner.on("nvme", "disconnect", effect=disconnect)
    call = asyncio.create_task(cli.connector.attempt(BOTH, CONFIG))
    await cli.runner.hanging.wait()
    cli.tree.add_path(0, NQN, traddr="192.0.2.2")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert removed == ["nvme1"]
    assert await paths(cli) == ["192.0.2.1"]


async def test_a_cancelled_attempt_keeps_what_it_saw_to_be_made(cli: NvmeBench) -> None:
    # Both programs run at once: the first one's end is seen, the second one never ends.
    cli.runner.on("nvme", "connect", effect=cli.export(), times=1)
    cli.runner.on("nvme", "connect", hang=True)
    call = asyncio.create_task(cli.connector.attempt(BOTH, CONFIG))
    await cli.runner.hanging.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert await paths(cli) == ["192.0.2.1"]
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await paths(cli) == ["192.0.2.1"]
    assert cli.disconnects == 0


async def test_dropping_removes_the_named_controllers_whoever_uses_them(bench: NvmeBench) -> None:
    await bench.connector.connect(TARGET, CONFIG)
    bench.tree.nodes.claimed.add(f"{bench.tree.host.dev}/nvme0n1")
    session = await bench.connector.resolver.session(NQN)
    assert session is not None
    await bench.connector.drop(session)
    assert await paths(bench) == []


async def test_a_controller_that_stays_after_a_drop_is_told(cli: NvmeBench) -> None:
    cli.tree.add_session(NQN)
    cli.runner.on("nvme", "disconnect", stderr="Did not find device nvme0\n")
    session = await cli.connector.resolver.session(NQN)
    assert session is not None
    with pytest.raises(Unavailable, match=r"still connected.*nvme0 .*live.*Did not find device"):
        await cli.connector.drop(session)


async def test_the_caller_hears_of_the_portal_before_its_deadline(tmp_path: Path) -> None:
    bench = NvmeBench(tmp_path, first_delay=60)
    bench.portals["192.0.2.1"] = Reason.REFUSED
    set_deadline(time.monotonic() + 5)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match=r"192.0.2.1:4420.*after 1 attempts.*deadline leaves no time for more"):
        await bench.connector.connect(TARGET, CONFIG)
    assert time.monotonic() - begun < 3


async def test_a_name_with_a_comma_never_reaches_the_kernel(bench: NvmeBench) -> None:
    target = NvmeTarget(NQN + ",hostnqn=nqn.2026-01.io.example:other", ("192.0.2.1",))
    with pytest.raises(InvalidArgument, match="comma"):
        await bench.connector.connect(target, CONFIG)
    assert bench.runner.calls == []


async def test_connect_with_retry_ends_at_a_live_session_and_can_be_undone(bench: NvmeBench) -> None:
    connects = await bench.connector.connect_with_retry(TARGET, CONFIG)
    assert connects.created
    assert await paths(bench) == ["192.0.2.1"]
    await connects.undo()
    assert await paths(bench) == []


async def test_a_program_killed_by_a_signal_is_started_again(
    unscripted: NvmeBench, caplog: pytest.LogCaptureFixture
) -> None:
    unscripted.runner.on(*unscripted.connect_program, returncode=-9, times=1)
    unscripted.runner.on(*unscripted.connect_program, effect=unscripted.export())
    with caplog.at_level(logging.WARNING):
        assert (await unscripted.connector.connect(TARGET, CONFIG)).created
    assert "the program that connects was killed" in caplog.text


async def test_what_a_killed_program_had_made_is_ours_to_undo(unscripted: NvmeBench) -> None:
    unscripted.runner.on(*unscripted.connect_program, returncode=-9, effect=unscripted.export(), times=1)
    connects = await unscripted.connector.connect_with_retry(TARGET, CONFIG)
    assert connects.created
    assert unscripted.connects == 1


async def test_warnings_before_the_answer_change_nothing(cli: NvmeBench) -> None:
    warning = "Failed to open /etc/nvme/config.json: No such file or directory\n"
    cli.runner.on("nvme", "connect", returncode=1, stderr=warning + REFUSED, times=1)
    cli.runner.on("nvme", "connect", stderr=warning, effect=cli.export())
    assert (await cli.connector.connect(TARGET, CONFIG)).created
    assert cli.connects == 2


async def test_the_interface_is_given_to_the_kernel(bench: NvmeBench) -> None:
    await bench.connector.connect(TARGET, ConnectionConfig(host_iface="eth1.20"))
    (argv,) = bench.runner.calls
    assert (
        argv[argv.index("-f") + 1] == "eth1.20" if argv[0] == "nvme" else "host_iface=eth1.20" in bench.runner.inputs[0]
    )
