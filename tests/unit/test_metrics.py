"""The metrics' names, and that they belong to the object and not to the process."""

from rds_csi import __version__
from rds_csi.metrics import Metrics


async def test_the_exposition_has_our_metrics_and_those_of_the_process() -> None:
    metrics = Metrics()
    metrics.array_available.labels("local").set(1)
    metrics.rpc_seconds.labels("Probe", "OK").observe(0.002)
    text = (await metrics.exposition()).decode()
    assert f'rds_csi_build_info{{version="{__version__}"}} 1.0' in text
    assert 'rds_csi_array_available{array="local"} 1.0' in text
    assert 'rds_csi_rpc_duration_seconds_bucket{code="OK",le="0.0025",method="Probe"} 1.0' in text
    assert "process_resident_memory_bytes" in text


async def test_what_an_alert_counts_is_shown_before_it_happens() -> None:
    text = (await Metrics().exposition()).decode()
    for series in (
        'rds_csi_nvme_reconnects_total{result="failed"}',
        'rds_csi_sweep_decisions_total{decision="disconnect"}',
        'rds_csi_sweep_disconnects_total{result="failed"}',
        'rds_csi_sweep_runs_total{result="failed"}',
    ):
        assert f"{series} 0.0" in text


def test_two_objects_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.array_available.labels("a").set(1)
    assert other.registry.get_sample_value("rds_csi_array_available", {"array": "a"}) is None


async def test_figures_are_looked_up_at_the_scrape_and_a_failing_look_does_not_hide_the_others() -> None:
    metrics = Metrics()

    async def fails() -> None:
        raise OSError("no sysfs")

    async def looks() -> None:
        metrics.sessions.labels("live").set(3)

    metrics.before_scrape(fails)
    metrics.before_scrape(looks)
    assert 'rds_csi_nvme_sessions{state="live"} 3.0' in (await metrics.exposition()).decode()
