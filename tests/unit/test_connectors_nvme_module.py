"""The module nvme-tcp: loaded when it is missing, by one attempt for all who need it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from rds_csi.connectors.nvme_module import NvmeModule
from rds_csi.model.host import HostPaths
from tests.support.runner import ScriptedRunner


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """/dev/nvme-fabrics of a host; it is missing."""
    (tmp_path / "dev").mkdir()
    return tmp_path / "dev" / "nvme-fabrics"


def unload(device: Path) -> None:
    """As rmmod does it."""
    device.unlink(missing_ok=True)


@pytest.fixture
def module_of(device: Path) -> Callable[[ScriptedRunner], NvmeModule]:
    return lambda runner: NvmeModule(HostPaths(str(device.parents[1])), runner)


async def test_calls_that_come_while_it_is_loaded_wait_for_that(
    device: Path, module_of: Callable[[ScriptedRunner], NvmeModule]
) -> None:
    runner = ScriptedRunner().on("modprobe", "nvme-tcp", effect=lambda _: device.touch())
    module = module_of(runner)
    findings = await asyncio.gather(*(module.ensure() for _ in range(3)))
    assert [finding.ok for finding in findings] == [True] * 3
    assert runner.called("modprobe") == 1


async def test_one_that_was_taken_away_again_is_loaded_again(
    device: Path, module_of: Callable[[ScriptedRunner], NvmeModule]
) -> None:
    runner = ScriptedRunner().on("modprobe", effect=lambda _: device.touch())
    module = module_of(runner)
    for _ in range(2):
        unload(device)
        assert (await module.ensure()).ok
    assert runner.called("modprobe") == 2


async def test_what_has_failed_is_not_tried_again(module_of: Callable[[ScriptedRunner], NvmeModule]) -> None:
    runner = ScriptedRunner().on("modprobe", returncode=1, stderr="modprobe: FATAL: Module nvme-tcp not found")
    module = module_of(runner)
    findings = [await module.ensure(), *await asyncio.gather(module.ensure(), module.ensure())]
    assert "Module nvme-tcp not found" in findings[0].message
    assert not any(finding.ok for finding in findings)
    assert all("modprobe nvme-tcp" in finding.remedy for finding in findings)
    assert runner.called("modprobe") == 1


async def test_a_caller_that_goes_away_leaves_the_attempt_to_the_next(
    device: Path, module_of: Callable[[ScriptedRunner], NvmeModule]
) -> None:
    runner = ScriptedRunner().on("modprobe", hang=True, times=1).on("modprobe", effect=lambda _: device.touch())
    module = module_of(runner)
    first = asyncio.create_task(module.ensure())
    await runner.hanging.wait()
    second = asyncio.create_task(module.ensure())
    first.cancel()
    assert (await second).ok
    assert first.cancelled()
