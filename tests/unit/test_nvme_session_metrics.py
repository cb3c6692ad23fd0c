"""Sessions by state, as a scrape shows them."""

from pathlib import Path

from rds_csi.metrics import Metrics
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.session_metrics import SessionFigures
from rds_csi.workers import Workers
from tests.support.nvme_tree import NvmeTree

PREFIX = "nqn.2026-01.io.example:"


async def scrape(metrics: Metrics) -> dict[str, float]:
    lines = (await metrics.exposition()).decode().splitlines()
    told = [line for line in lines if line.startswith("rds_csi_nvme_sessions{")]
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in told}


async def test_a_scrape_shows_the_controllers_of_this_driver_by_state(tmp_path: Path) -> None:
    tree, metrics = NvmeTree(tmp_path), Metrics()
    metrics.before_scrape(SessionFigures(DeviceResolver(tree.host, Workers()), metrics, PREFIX).refresh)
    assert await scrape(metrics) == {"live": 0}

    two_paths = tree.add_session(f"{PREFIX}a")
    tree.add_path(two_paths, f"{PREFIX}a", state="connecting")
    tree.add_session(f"{PREFIX}b")
    left_over = tree.add_session(f"{PREFIX}c")
    tree.path(f"sys/devices/virtual/nvme-subsystem/nvme-subsys{left_over}/nvme{left_over}").unlink()
    tree.add_session("nqn.2000-02.com.mikrotik:foreign")
    assert await scrape(metrics) == {"live": 2, "connecting": 1, "none": 1}

    tree.set_state(1, "live")
    assert await scrape(metrics) == {"live": 3, "connecting": 0, "none": 1}


async def test_figures_stay_when_the_sessions_cannot_be_looked_at(tmp_path: Path) -> None:
    tree, metrics = NvmeTree(tmp_path), Metrics()
    metrics.before_scrape(SessionFigures(DeviceResolver(tree.host, Workers()), metrics, PREFIX).refresh)
    tree.add_session(f"{PREFIX}a")
    assert await scrape(metrics) == {"live": 1}
    attribute = tree.path("sys/class/nvme-subsystem/nvme-subsys0/subsysnqn")
    attribute.unlink()
    attribute.mkdir()
    assert await scrape(metrics) == {"live": 1}
