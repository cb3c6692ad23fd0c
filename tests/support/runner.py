"""A ``Runner`` that starts nothing: it answers from a script and remembers what it was asked to run."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rds_csi.process import Completed
from rds_csi.tasks import finish


@dataclass
class Rule:
    """What happens when a program whose argv begins with ``prefix`` is run; ``times`` is how often it still holds."""

    prefix: tuple[str, ...]
    returncode: int = 0
    stdout: str = ""
    stderr: str = ""
    error: Exception | None = None
    effect: Callable[[tuple[str, ...]], object] | None = None
    hang: bool = False
    times: int = 1 << 30


@dataclass
class ScriptedRunner:
    """The first rule that fits and is not used up answers; a program without a rule fails the test.

    ``calls`` is every argv in order. ``killed`` is those whose caller was cancelled while they ran. ``hanging`` is
    set when a program that never ends has begun.
    """

    rules: list[Rule] = field(default_factory=list)
    calls: list[tuple[str, ...]] = field(default_factory=list)
    killed: list[tuple[str, ...]] = field(default_factory=list)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)

    def on(
        self,
        *prefix: str,
        returncode: int = 0,
        stdout: str = "",
        stderr: str = "",
        error: Exception | None = None,
        effect: Callable[[tuple[str, ...]], object] | None = None,
        hang: bool = False,
        times: int = 1 << 30,
    ) -> "ScriptedRunner":
        """Add a rule. ``effect`` is called with the argv, before the answer: it changes what the program would.
        ``hang``: the program never ends. ``error`` is raised instead of an answer."""
        self.rules.append(Rule(prefix, returncode, stdout, stderr, error, effect, hang, times))
        return self

    def called(self, *prefix: str) -> int:
        """How many programs were run whose argv begins with ``prefix``."""
        return sum(argv[: len(prefix)] == prefix for argv in self.calls)

    async def run(
        self, *argv: str, timeout: float, input: bytes = b"", env: Mapping[str, str] | None = None
    ) -> Completed:
        self.calls.append(argv)
        rule = self._rule(argv)
        rule.times -= 1
        try:
            await asyncio.sleep(0)
            if rule.hang:
                self.hanging.set()
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.killed.append(argv)
            raise
        if rule.effect is not None:
            rule.effect(argv)
        if rule.error is not None:
            raise rule.error
        return Completed(argv, rule.returncode, rule.stdout, rule.stderr)

    async def run_to_end(self, *argv: str, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        return await finish(self.run(*argv, timeout=timeout, env=env))

    def _rule(self, argv: tuple[str, ...]) -> Rule:
        for rule in self.rules:
            if rule.times > 0 and argv[: len(rule.prefix)] == rule.prefix:
                return rule
        raise AssertionError(f"no rule for {' '.join(argv)}")
