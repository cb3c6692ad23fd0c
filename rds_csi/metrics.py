"""Every metric's name, help and labels in one place, on a registry that is passed around."""

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector, generate_latest

from rds_csi import __version__

# Seconds: from trivial calls (below a millisecond) to the longest wait of a sidecar (5 minutes).
RPC_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

# Seconds: from a quick mount to an mkfs of a large volume.
PROGRAM_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """The driver's metrics. One object a process; labels are bounded (method names, codes), never volume ids."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)
