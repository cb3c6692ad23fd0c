"""A check that is repeated for as long as the server runs, and told once whenever its outcome changes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import Random

from rds_csi.model.volumes import Finding

log = logging.getLogger(__name__)

# How long between two looks. Long enough to cost nothing, short enough for a person who waits for "ready".
INTERVAL_SECONDS = 30.0
# Looks of many nodes must not march in step.
JITTER = 0.2

Check = Callable[[], Awaitable[Sequence[Finding]]]


class Watch:
    """Whether something (this node's tools, the array) is well, by its own findings."""

    def __init__(
        self,
        subject: str,
        check: Check,
        *,
        report: Callable[[bool], None] = lambda _: None,
        interval: float = INTERVAL_SECONDS,
        random: Random | None = None,
    ) -> None:
        """``report`` is told the outcome of every look (a gauge); the log is told every change."""
        self._subject = subject
        self._check = check
        self._report = report
        self._interval = interval
        self._random = random or Random()  # noqa: S311 - spreads load, guards nothing
        self._problems: tuple[Finding, ...] | None = None
        self._hints: frozenset[Finding] = frozenset()

    async def ready(self) -> bool:
        """The outcome of the last look; the first one is waited for."""
        if self._problems is None:
            return await self.look()
        return not self._problems

    async def problem(self) -> str:
        """What is wrong, in one sentence for each finding; empty when all is well."""
        await self.ready()
        return " ".join(f"{finding.subject}: {finding.message}." for finding in self._problems or ())

    async def look(self) -> bool:
        """Look once now; log what changed."""
        findings = await self._check()
        problems = tuple(finding for finding in findings if not finding.ok)
        # What is missing only for some volumes (a filesystem's tools) keeps nobody from work, but is told as well.
        hints = frozenset(finding for finding in findings if finding.ok and finding.remedy)
        for hint in [finding for finding in findings if finding in hints - self._hints]:
            log.info("%s: %s: %s. %s", self._subject, hint.subject, hint.message, hint.remedy)
        self._hints = hints
        # Compared only now: two looks at once must not tell one change twice.
        before, self._problems = self._problems, problems
        for problem in problems:
            if before is None or problem not in before:
                log.warning("%s: %s: %s. %s", self._subject, problem.subject, problem.message, problem.remedy)
        if not problems and before != ():
            log.info("%s is ready", self._subject)
        self._report(not problems)
        return not problems

    async def run(self) -> None:
        """Look again and again; a look that fails is logged, and the next one is made all the same."""
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("%s could not be checked", self._subject)
            await asyncio.sleep(self._interval * (1 + self._random.uniform(-JITTER, JITTER)))
