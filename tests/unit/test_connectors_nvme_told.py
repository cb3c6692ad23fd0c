"""What is told about connects: counters, steps, gauges of places, and what a connect costs; on made-up trees."""

import asyncio
import time
from pathlib import Path

import pytest

from rds_csi.connectors.nvme_places import ConnectPlaces
from rds_csi.deadline import set_deadline
from rds_csi.errors import Unavailable
from rds_csi.metrics import Metrics
from rds_csi.model.targets import NvmeTarget
from rds_csi.progress import begin
from tests.support.nvme_bench import ATTEMPTS, CONFIG, MAX_CONNECTS, NQN, TARGET, UUID, NvmeBench

REFUSED = "Failed to write to /dev/nvme-fabrics: Connection refused"


@pytest.fixture(params=["nvme-cli", "fabrics"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> NvmeBench:
    made = NvmeBench(tmp_path, link=request.param)
    made.runner.on(*made.connect_program, effect=made.export())
    made.let_disconnect()
    return made


@pytest.fixture
def cli(tmp_path: Path) -> NvmeBench:
    return NvmeBench(tmp_path)


async def test_connects_are_counted_by_result_and_reason(cli: NvmeBench) -> None:
    cli.runner.on("nvme", "connect", returncode=1, stderr=REFUSED, times=ATTEMPTS + 1)
    cli.runner.on("nvme", "connect", effect=cli.export(), times=1)
    cli.runner.on("nvme", "connect", hang=True)
    cli.let_disconnect()
    with pytest.raises(Unavailable):
        await cli.connector.connect(TARGET, CONFIG)
    await cli.connector.connect(TARGET, CONFIG)
    await cli.connector.disconnect(TARGET)
    call = asyncio.create_task(cli.connector.connect(TARGET, CONFIG))
    await cli.runner.hanging.wait()
    assert cli.sample("rds_csi_nvme_connects_running") == 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    name = "rds_csi_nvme_connects_total"
    assert cli.sample(name, result="failed", reason="refused") == 1
    assert cli.sample(name, result="ok", reason="") == 1
    assert cli.sample(name, result="cancelled", reason="") == 1
    assert cli.sample("rds_csi_nvme_connect_attempts_total") == ATTEMPTS + 3
    assert cli.sample("rds_csi_nvme_connects_running") == 0
    for result in ("ok", "failed", "cancelled"):
        assert cli.sample("rds_csi_nvme_connect_duration_seconds_count", result=result) == 1


async def test_every_step_is_told(cli: NvmeBench) -> None:
    progress = begin("NodeStageVolume")
    steps: list[str] = []
    cli.runner.on(
        "nvme", "connect", returncode=1, stderr=REFUSED, times=1, effect=lambda _: steps.append(progress.describe())
    )

    def connect(argv: tuple[str, ...]) -> None:
        steps.append(progress.describe())
        cli.export(namespace=False)(argv)

    def pause() -> None:
        steps.append(progress.describe())
        cli.tree.add_namespace(0, uuid=UUID)

    def disconnect(argv: tuple[str, ...]) -> None:
        steps.append(progress.describe())
        cli.remove(argv)

    cli.runner.on("nvme", "connect", effect=connect)
    cli.runner.on("nvme", "disconnect", effect=disconnect)
    cli.clock.at_first_pause = pause
    await cli.connector.connect(TARGET, CONFIG)
    await cli.connector.disconnect(TARGET)
    assert steps == [
        "connecting 192.0.2.1:4420, attempt 1",
        "connecting 192.0.2.1:4420, attempt 2",
        "waiting for the device",
        "disconnecting",
    ]


async def test_a_device_is_waited_for_without_a_fixed_sleep(cli: NvmeBench) -> None:
    cli.runner.on("nvme", "connect", effect=cli.export())
    await cli.connector.connect(TARGET, CONFIG)
    assert cli.clock.pauses == []


async def test_the_pauses_between_looks_double_from_50_ms_to_500_ms(cli: NvmeBench) -> None:
    cli.runner.on("nvme", "connect", effect=cli.export(namespace=False))
    cli.let_disconnect()
    with pytest.raises(Unavailable):
        await cli.connector.connect(TARGET, CONFIG)
    assert cli.clock.pauses[:6] == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]


async def test_a_fresh_connect_takes_few_looks_and_one_program(bench: NvmeBench) -> None:
    await bench.connector.connect(TARGET, CONFIG)
    await bench.connector.disconnect(TARGET)
    programs, looks = len(bench.runner.calls), bench.workers.jobs
    await bench.connector.connect(TARGET, CONFIG)
    # The session before, and the session after.
    assert (len(bench.runner.calls) - programs, bench.workers.jobs - looks) == (1, 2)
    programs, looks = len(bench.runner.calls), bench.workers.jobs
    await bench.connector.connect(TARGET, CONFIG)
    assert (len(bench.runner.calls) - programs, bench.workers.jobs - looks) == (0, 2)
    programs, looks = len(bench.runner.calls), bench.workers.jobs
    await bench.connector.disconnect(TARGET)
    # The session, its users, the session again, and that it has gone.
    assert (len(bench.runner.calls) - programs, bench.workers.jobs - looks) == (1, 4)


async def test_places_are_given_in_order_and_shown() -> None:
    metrics = Metrics()
    places = ConnectPlaces(2, metrics)
    order: list[int] = []
    running = most = 0

    async def work(number: int) -> None:
        nonlocal running, most
        async with places.place():
            order.append(number)
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    tasks = [asyncio.create_task(work(number)) for number in range(8)]
    await asyncio.sleep(0)
    assert metrics.registry.get_sample_value("rds_csi_nvme_connects_running") == 2
    assert metrics.registry.get_sample_value("rds_csi_nvme_connects_waiting") == 6
    tasks[4].cancel()
    await asyncio.wait(tasks)
    assert order == [0, 1, 2, 3, 5, 6, 7]
    assert most == 2
    assert metrics.registry.get_sample_value("rds_csi_nvme_connects_waiting") == 0


async def test_a_place_that_does_not_come_free_is_unavailable_before_the_deadline() -> None:
    places = ConnectPlaces(1, Metrics())
    async with places.place():
        set_deadline(time.monotonic() + 1.05)
        progress = begin("NodeStageVolume")
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="--max-connects"):
            async with places.place():
                pass
        assert time.monotonic() - begun < 1
        assert progress.describe() == "waiting for a place among 1 connects"


async def test_a_portal_that_hangs_takes_one_place_only(cli: NvmeBench) -> None:
    assert MAX_CONNECTS > 1
    cli.runner.on("nvme", "connect", hang=True, times=1)
    cli.runner.on("nvme", "connect", effect=cli.export())
    cli.let_disconnect()
    hanging = asyncio.create_task(cli.connector.connect(NvmeTarget(NQN + "-other", ("192.0.2.9",)), CONFIG))
    await cli.runner.hanging.wait()
    assert (await cli.connector.connect(TARGET, CONFIG)).created
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
