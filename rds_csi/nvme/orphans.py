"""The sweep of orphaned NVMe sessions (design, section 6): the pure decision, and the cleaner that acts upon it."""

from rds_csi.nvme.cleaner import OrphanCleaner, Outcome, Result
from rds_csi.nvme.decision import Decision, Hang, Kind, Sighting, Snapshot, Verdict, decide

__all__ = [
    "Decision",
    "Hang",
    "Kind",
    "OrphanCleaner",
    "Outcome",
    "Result",
    "Sighting",
    "Snapshot",
    "Verdict",
    "decide",
]
