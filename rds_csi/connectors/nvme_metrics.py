"""Counting connects: result, reason and duration of each."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rds_csi.errors import DriverError
from rds_csi.metrics import Metrics


class Told(Protocol):
    """Who knows why the last attempt failed; "" when nothing did."""

    @property
    def reason(self) -> str: ...


class Outcome:
    """What a connect that is running will be counted as."""

    def __init__(self) -> None:
        self._told: Told | None = None

    def reason_of(self, told: Told) -> None:
        """Have ``told`` asked for the reason of a failure."""
        self._told = told

    def reason(self, error: Exception) -> str:
        """One of few words: a Reason's, else the error's class."""
        return (self._told.reason if self._told is not None else "") or type(error).__name__


@contextmanager
def counted(metrics: Metrics) -> Iterator[Outcome]:
    """Count the block as one connect: ok, failed, or cancelled."""
    outcome = Outcome()
    began = time.monotonic()

    def count(result: str, reason: str) -> None:
        metrics.connects.labels(result, reason).inc()
        metrics.connect_seconds.labels(result).observe(time.monotonic() - began)

    try:
        yield outcome
    except asyncio.CancelledError:
        count("cancelled", "")
        raise
    except DriverError as error:
        count("failed", outcome.reason(error))
        raise
    count("ok", "")
