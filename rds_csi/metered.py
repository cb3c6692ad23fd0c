"""Programs, counted and timed: what a node spends its time on."""

from collections.abc import Mapping

from prometheus_async.aio import time

from rds_csi.metrics import Metrics
from rds_csi.process import Completed, Runner


class MeteredRunner:
    """A Runner that observes the duration of every program, by its name."""

    def __init__(self, runner: Runner, metrics: Metrics) -> None:
        self._runner = runner
        self._metrics = metrics

    async def run(
        self, *argv: str, timeout: float, input: bytes = b"", env: Mapping[str, str] | None = None
    ) -> Completed:
        completed: Completed = await time(
            self._metrics.program_seconds.labels(argv[0]),
            self._runner.run(*argv, timeout=timeout, input=input, env=env),
        )
        return completed

    async def run_to_end(self, *argv: str, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        completed: Completed = await time(
            self._metrics.program_seconds.labels(argv[0]), self._runner.run_to_end(*argv, timeout=timeout, env=env)
        )
        return completed
