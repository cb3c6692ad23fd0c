"""Every metric's name, help and labels in one place, on a registry that is passed around."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from rds_csi import __version__

# Seconds: from trivial calls (below a millisecond) to the longest wait of a sidecar (5 minutes).
RPC_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

# Seconds: from a quick mount to an mkfs of a large volume.
PROGRAM_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


# Below a scraper's own timeout (10 s by default).
_REFRESH_SECONDS = 3.0

Refresh = Callable[[], Awaitable[None]]

log = logging.getLogger(__name__)


class Metrics:
    """The driver's metrics. One object a process; labels are bounded (method names, codes), never volume ids."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._refreshes: list[Refresh] = []
        ProcessCollector(registry=self.registry)
        self.build_info = Gauge(
            "rds_csi_build_info", "Always 1; the version is in the label.", ["version"], registry=self.registry
        )
        self.build_info.labels(__version__).set(1)
        self.rpc_seconds = Histogram(
            "rds_csi_rpc_duration_seconds",
            "Duration of finished RPCs by method and gRPC code.",
            ["method", "code"],
            buckets=RPC_BUCKETS,
            registry=self.registry,
        )
        self.rpc_in_flight = Gauge(
            "rds_csi_rpc_in_flight", "RPCs that are running now, by method.", ["method"], registry=self.registry
        )
        self.array_available = Gauge(
            "rds_csi_array_available",
            "1 while the array answers, 0 while it is away; absent where no array is asked.",
            ["array"],
            registry=self.registry,
        )

        self.program_seconds = Histogram(
            "rds_csi_program_duration_seconds",
            "Duration of the programs that were run (mount, mkfs.xfs, nvme…), by name.",
            ["program"],
            buckets=PROGRAM_BUCKETS,
            registry=self.registry,
        )
        self._add_sessions()
        self._add_sweep()

    def _add_sessions(self) -> None:
        self.connects = Counter(
            "rds_csi_nvme_connects",
            "Finished connects of a volume's target, by result (ok, failed, cancelled) and reason.",
            ["result", "reason"],
            registry=self.registry,
        )
        self.connect_attempts = Counter(
            "rds_csi_nvme_connect_attempts", "Attempts to connect a portal.", registry=self.registry
        )
        self.connect_seconds = Histogram(
            "rds_csi_nvme_connect_duration_seconds",
            "From the begin of a connect to the device's appearance, by result.",
            ["result"],
            buckets=PROGRAM_BUCKETS,
            registry=self.registry,
        )
        self.connects_running = Gauge(
            "rds_csi_nvme_connects_running", "Connects that the kernel works on now.", registry=self.registry
        )
        self.connects_waiting = Gauge(
            "rds_csi_nvme_connects_waiting",
            "Connects that wait because --max-connects are running.",
            registry=self.registry,
        )
        self.sessions = Gauge(
            "rds_csi_nvme_sessions",
            "Controllers of this driver's subsystems, by state, read from sysfs at the scrape.",
            ["state"],
            registry=self.registry,
        )
        self.portals_missing = Gauge(
            "rds_csi_nvme_portals_missing",
            "Portals of staged volumes that are not connected, although the volume is.",
            registry=self.registry,
        )
        self.sessions_lost = Gauge(
            "rds_csi_nvme_sessions_lost",
            "Staged volumes without a session: the kernel gave it up, and it has not come back.",
            registry=self.registry,
        )
        self.outage_seconds = Histogram(
            "rds_csi_nvme_outage_duration_seconds",
            "From a staged volume's last path going to a path being live again.",
            buckets=RPC_BUCKETS,
            registry=self.registry,
        )
        self.reconnects = Counter(
            "rds_csi_nvme_reconnects",
            "Attempts to bring back what a staged volume lacks, a session or a portal, by result (ok, failed).",
            ["result"],
            registry=self.registry,
        )
        _begin_at_zero(self.reconnects, "ok", "failed")
        self.duplicate_hosts = Gauge(
            "rds_csi_duplicate_host_nqns",
            "Host NQNs that more than one node has; each is a danger to data.",
            registry=self.registry,
        )

    def _add_sweep(self) -> None:
        self.sweeps = Counter(
            "rds_csi_sweep_runs", "Sweeps by result (ok, failed).", ["result"], registry=self.registry
        )
        self.sweep_decisions = Counter(
            "rds_csi_sweep_decisions",
            "What sweeps decided about the subsystems they saw (keep, disconnect, foreign).",
            ["decision"],
            registry=self.registry,
        )
        self.sweep_disconnects = Counter(
            "rds_csi_sweep_disconnects",
            "Orphans that sweeps disconnected, by result (ok, failed, spared: used again at the last look).",
            ["result"],
            registry=self.registry,
        )
        _begin_at_zero(self.sweeps, "ok", "failed")
        _begin_at_zero(self.sweep_decisions, "keep", "disconnect", "foreign")
        _begin_at_zero(self.sweep_disconnects, "ok", "failed", "spared")
        self.sweep_last_success = Gauge(
            "rds_csi_sweep_last_success_timestamp_seconds",
            "When the last sweep came to its end (Unix time).",
            registry=self.registry,
        )

    def before_scrape(self, refresh: Refresh) -> None:
        """Have ``refresh`` awaited before each exposition: for figures that are looked up, not counted."""
        self._refreshes.append(refresh)

    async def exposition(self) -> bytes:
        """All metrics in the Prometheus text format, version 0.0.4.

        A look that fails or does not come back in time leaves its figures as they were.
        """
        for refresh in self._refreshes:
            try:
                async with asyncio.timeout(_REFRESH_SECONDS):
                    await refresh()
            except Exception as error:
                log.warning("metrics may be old: %s: %s", type(error).__name__, error)
        return generate_latest(self.registry)


def _begin_at_zero(counter: Counter, *values: str) -> None:
    """Show the series of each value of its label from the start: of one that begins with 1, increase() sees nothing,
    and no alert comes of what happens once."""
    for value in values:
        counter.labels(value)
