"""Connection values of a session that is there follow the config, as the kernel keeps them."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.connectors.nvme_tuning import Write, queues_that_differ, unchangeable, writes_for
from rds_csi.model.connection import ConnectionConfig
from rds_csi.nvme.sessions import OFF, Controller
from tests.support.nvme_bench import NQN, TARGET, UUID, NvmeBench

ATTRIBUTES = ("ctrl_loss_tmo", "reconnect_delay", "fast_io_fail_tmo")


def in_force(loss: int | None, delay: int | None, fast: int | None, kato: int | None = 5) -> Controller:
    return Controller(
        "nvme0",
        "live",
        "tcp",
        ctrl_loss_tmo=loss,
        reconnect_delay=delay,
        fast_io_fail_tmo=fast,
        keep_alive_tmo=kato,
    )


@pytest.mark.parametrize(
    ("controller", "config", "writes"),
    [
        (in_force(OFF, 5, OFF), ConnectionConfig(), []),
        # 78 s are 16 attempts 5 s apart.
        (in_force(80, 5, OFF), ConnectionConfig(ctrl_loss_tmo=78), []),
        # 0 asks for the kernel's own 600 s.
        (in_force(600, 5, OFF), ConnectionConfig(ctrl_loss_tmo=0), []),
        (in_force(600, 5, OFF), ConnectionConfig(), [("ctrl_loss_tmo", OFF)]),
        (in_force(OFF, 5, OFF), ConnectionConfig(ctrl_loss_tmo=0), [("ctrl_loss_tmo", 600)]),
        (in_force(OFF, 10, OFF), ConnectionConfig(), [("reconnect_delay", 5)]),
        # A new delay changes the time that as many attempts take.
        (
            in_force(600, 10, OFF),
            ConnectionConfig(ctrl_loss_tmo=600),
            [("reconnect_delay", 5), ("ctrl_loss_tmo", 600)],
        ),
        (in_force(OFF, 5, OFF), ConnectionConfig(fast_io_fail_tmo=30), [("fast_io_fail_tmo", 30)]),
        (in_force(OFF, 5, 30), ConnectionConfig(), [("fast_io_fail_tmo", OFF)]),
        (in_force(None, None, None), ConnectionConfig(fast_io_fail_tmo=30), []),
    ],
)
def test_what_differs_is_written_the_delay_first(
    controller: Controller, config: ConnectionConfig, writes: list[tuple[str, int]]
) -> None:
    assert writes_for(controller, config) == tuple(Write("nvme0", attribute, value) for attribute, value in writes)


class Kernel:
    """Keeps the values as drivers/nvme/host/sysfs.c does."""

    def __init__(self, loss: int, delay: int, fast: int) -> None:
        self.delay, self.fast = delay, fast
        self.reconnects = self._reconnects(loss)

    def _reconnects(self, loss: int) -> int:
        return OFF if loss < 0 else -(-loss // self.delay)

    def write(self, write: Write) -> None:
        if write.attribute == "reconnect_delay":
            self.delay = write.value
        elif write.attribute == "fast_io_fail_tmo":
            self.fast = write.value
        else:
            self.reconnects = self._reconnects(write.value)

    def shown(self) -> Controller:
        loss = OFF if self.reconnects == OFF else self.reconnects * self.delay
        return in_force(loss, self.delay, self.fast)


values = st.tuples(st.integers(-1, 5000), st.integers(1, 60), st.integers(-1, 5000))


@given(values, values)
def test_one_round_of_writes_brings_every_kernel_to_every_config(
    before: tuple[int, int, int], wanted: tuple[int, int, int]
) -> None:
    loss, delay, fast = wanted
    if 0 < loss < max(delay, fast):
        loss = max(delay, fast)
    config = ConnectionConfig(ctrl_loss_tmo=loss, reconnect_delay=delay, fast_io_fail_tmo=fast)
    kernel, fresh = Kernel(*before), Kernel(loss or 600, delay, fast)
    for write in writes_for(kernel.shown(), config):
        kernel.write(write)
    assert kernel.shown() == fresh.shown()
    assert writes_for(kernel.shown(), config) == ()


def test_what_cannot_be_changed_is_told() -> None:
    assert unchangeable(in_force(OFF, 5, OFF), ConnectionConfig()) == ""
    assert unchangeable(in_force(OFF, 5, OFF, None), ConnectionConfig(keep_alive_tmo=30)) == ""
    assert unchangeable(in_force(OFF, 5, OFF), ConnectionConfig(keep_alive_tmo=30)) == (
        "keep_alive_tmo is 5 s, and 30 s is asked"
    )


@pytest.mark.parametrize(
    ("count", "size", "config", "told"),
    [
        (3, 127, ConnectionConfig(), ""),
        (3, 63, ConnectionConfig(), ""),
        (3, 127, ConnectionConfig(nr_io_queues=2), ""),
        (5, 127, ConnectionConfig(nr_io_queues=2, nr_write_queues=1, nr_poll_queues=1), ""),
        (3, 127, ConnectionConfig(nr_io_queues=4), "2 I/O queues are in use, and 4 are asked"),
        (3, 127, ConnectionConfig(queue_size=64), "queues have 128 entries, and 64 are asked"),
        (None, None, ConnectionConfig(nr_io_queues=4, queue_size=64), ""),
    ],
)
def test_queues_that_differ_from_what_is_asked_are_told(
    count: int | None, size: int | None, config: ConnectionConfig, told: str
) -> None:
    assert queues_that_differ(count, size, config) == told


@pytest.fixture
def bench(tmp_path: Path) -> NvmeBench:
    made = NvmeBench(tmp_path)
    made.tree.add_namespace(made.tree.add_session(NQN), uuid=UUID)
    return made


def shown(bench: NvmeBench) -> tuple[str, ...]:
    return tuple(bench.tree.path("sys/class/nvme/nvme0", name).read_text().split("\n")[0] for name in ATTRIBUTES)


async def test_a_session_that_is_there_gets_the_values_of_the_config(bench: NvmeBench) -> None:
    config = ConnectionConfig(ctrl_loss_tmo=600, reconnect_delay=7, fast_io_fail_tmo=30)
    assert not (await bench.connector.connect(TARGET, config)).created
    assert shown(bench) == ("600", "7", "30f")
    assert bench.runner.calls == []


async def test_one_that_is_on_its_way_gets_them_before_it_is_waited_for(bench: NvmeBench) -> None:
    bench.tree.set_state(0, "connecting")

    def back() -> None:
        assert shown(bench)[0] == "900"
        bench.tree.set_state(0, "live")

    bench.clock.at_first_pause = back
    await bench.connector.connect(TARGET, ConnectionConfig(ctrl_loss_tmo=900))


async def test_what_cannot_be_written_is_logged_once_and_the_session_used(
    bench: NvmeBench, caplog: pytest.LogCaptureFixture
) -> None:
    attribute = bench.tree.path("sys/class/nvme/nvme0/ctrl_loss_tmo")
    attribute.unlink()
    attribute.write_text("off\n")
    bench.tree.path("sys/class/nvme/nvme0/kato").write_text("15\n")
    attribute.with_name("fast_io_fail_tmo").unlink()
    attribute.with_name("fast_io_fail_tmo").symlink_to("/proc/self/mountinfo/none")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await bench.connector.connect(TARGET, ConnectionConfig())
    told = [record.message for record in caplog.records if "takes effect at the next stage" in record.message]
    assert told == [f"{NQN} (nvme0): keep_alive_tmo is 15 s, and 5 s is asked; it takes effect at the next stage"]


async def test_queues_of_an_older_config_are_told_once(bench: NvmeBench, caplog: pytest.LogCaptureFixture) -> None:
    bench.tree.path("sys/class/nvme/nvme0/queue_count").write_text("2\n")
    bench.tree.path("sys/class/nvme/nvme0/sqsize").write_text("127\n")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            await bench.connector.connect(TARGET, ConnectionConfig(nr_io_queues=4))
    told = [record.message for record in caplog.records if "1 I/O queues are in use, and 4 are asked" in record.message]
    assert len(told) == 1
    assert "takes effect at the next stage" in told[0]


async def test_a_value_that_the_kernel_refuses_is_told(bench: NvmeBench, caplog: pytest.LogCaptureFixture) -> None:
    # A directory in place of the attribute: it is read as a value that differs, and cannot be opened for writing.
    session = await bench.connector.resolver.session(NQN)
    assert session is not None
    attribute = bench.tree.path("sys/class/nvme/nvme0/reconnect_delay")
    attribute.write_text("9\n")
    differing = await bench.connector.resolver.session(NQN)
    assert differing is not None
    attribute.unlink()
    attribute.mkdir()
    problems = await bench.connector._tuning.apply(differing, ConnectionConfig())
    assert problems == [f"reconnect_delay of nvme0 ({NQN}) cannot be set to 5: Is a directory"]
    assert problems[0] in caplog.text
