"""What became of the suite's tests: read from Ginkgo's JSON report, held against the list of what may be left out."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from xml.etree import ElementTree

from tests.cluster.suite.left_out import LeftOut

_NANOSECONDS = 1_000_000_000
_TEST = "It"
# How the name of the suite's outermost container begins: "External Storage [Driver: …]". The program has others, too.
SUITE = "External Storage"


class State(StrEnum):
    """What a test can end as. Everything that Ginkgo has besides these (panicked, timedout, …) is a failure."""

    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test of the suite. ``message`` is the failure, or why the test left itself out."""

    name: str
    state: State
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A run of the suite: every test that it was asked for is in one of the three lists."""

    passed: Sequence[Outcome]
    failed: Sequence[Outcome]
    # Each with its reason.
    left_out: Sequence[tuple[Outcome, str]]
    # What is wrong beside failed tests, a line for each.
    problems: Sequence[str]
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether nothing failed and nothing was left out without a reason."""
        return not self.failed and not self.problems


def read_outcomes(report: Path) -> list[Outcome]:
    """All tests in a report of Ginkgo (its types.Report), by name. OSError, ValueError, KeyError for anything else."""
    (suite,) = json.loads(report.read_text())
    specs = suite["SpecReports"] or []
    found = [_outcome(spec) for spec in specs if _is_test(spec)]
    broken = [spec for spec in specs if not _is_test(spec) and _state(spec) is State.FAILED]
    found.extend(Outcome(f"({spec['LeafNodeType']})", State.FAILED, message=_message(spec)) for spec in broken)
    found.extend(Outcome("(suite)", State.FAILED, message=str(why)) for why in _suite_failures(suite, found))
    return sorted(found, key=lambda outcome: outcome.name)


def judge(
    outcomes: Iterable[Outcome], rules: Sequence[LeftOut], *, focus: str, at_least: int | None, seconds: float = 0.0
) -> Verdict:
    """Hold the outcomes of the tests that ``focus`` (a regular expression) asks for against the rules.

    A test left out that no rule explains is a problem. So are fewer than ``at_least`` that ran, and a rule that leaves
    nothing out; not with None, for a part of the suite.
    """
    asked = [outcome for outcome in outcomes if outcome.state is State.FAILED or re.search(focus, outcome.name)]
    left_out: list[tuple[Outcome, str]] = []
    problems: list[str] = []
    used: set[LeftOut] = set()
    for outcome in asked:
        if outcome.state is not State.SKIPPED:
            continue
        rule = next((rule for rule in rules if rule.explains(outcome.name, outcome.message)), None)
        if rule is None:
            problems.append(f"left out without a listed reason: {outcome.name}: {outcome.message or 'not run'}")
            left_out.append((outcome, "no reason is listed"))
        else:
            used.add(rule)
            left_out.append((outcome, rule.reason))
    passed = [outcome for outcome in asked if outcome.state is State.PASSED]
    failed = [outcome for outcome in asked if outcome.state is State.FAILED]
    ran = len(passed) + len(failed)
    if ran < (at_least or 1):
        problems.append(f"only {ran} tests ran; at least {at_least or 1} have to")
    if at_least is not None:
        problems.extend(f"nothing was left out by the rule {rule.names}" for rule in rules if rule not in used)
    return Verdict(passed, failed, left_out, problems, seconds)


def summary(verdict: Verdict) -> str:
    """One line for a person."""
    counts = f"{len(verdict.passed)} passed, {len(verdict.failed)} failed, {len(verdict.left_out)} left out"
    return f"Kubernetes' storage suite: {counts} in {verdict.seconds:.0f} s"


def write_junit(path: Path, verdict: Verdict) -> None:
    """The verdict for programs: a test case for each test, and one that fails for each problem."""
    suite = ElementTree.Element("testsuite", name=SUITE)
    for outcome in verdict.passed:
        _case(suite, outcome)
    for outcome in verdict.failed:
        _case(suite, outcome, "failure", outcome.message)
    for outcome, reason in verdict.left_out:
        _case(suite, outcome, "skipped", reason)
    for problem in verdict.problems:
        _case(suite, Outcome(problem, State.FAILED), "failure", problem)
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def to_text(verdict: Verdict) -> str:
    """The verdict for a person: what ran, what became of it, what was left out and why."""
    lines = [summary(verdict)]
    lines += [f"  PROBLEM {problem}" for problem in verdict.problems]
    lines += [f"  failed {outcome.name}: {_first(outcome.message)}" for outcome in verdict.failed]
    lines += [f"  passed {outcome.name} ({outcome.seconds:.0f} s)" for outcome in verdict.passed]
    for reason in dict.fromkeys(reason for _, reason in verdict.left_out):
        lines.append(f"  left out, {reason}:")
        lines += [f"    {outcome.name}" for outcome, why in verdict.left_out if why == reason]
    return "\n".join(lines) + "\n"


def _first(message: str) -> str:
    return next(iter(message.strip().splitlines()), "")


def _case(suite: ElementTree.Element, outcome: Outcome, kind: str = "", message: str = "") -> None:
    case = ElementTree.SubElement(suite, "testcase", name=outcome.name, time=f"{outcome.seconds:.3f}")
    if kind:
        # XML 1.0 has no place for other control characters than these.
        clean = re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd]", "?", message)
        ElementTree.SubElement(case, kind, message=_first(clean)).text = clean


def _is_test(spec: dict[str, object]) -> bool:
    return spec["LeafNodeType"] == _TEST and next(iter(_containers(spec)), "").startswith(SUITE)


def _containers(spec: dict[str, object]) -> list[str]:
    """The texts of the containers around a test, the outermost first."""
    texts = spec["ContainerHierarchyTexts"]
    return list(map(str, texts)) if isinstance(texts, list) else []


def _outcome(spec: dict[str, object]) -> Outcome:
    name = " ".join([*_containers(spec), str(spec["LeafNodeText"])]).removeprefix(f"{SUITE} ")
    return Outcome(name, _state(spec), float(str(spec["RunTime"])) / _NANOSECONDS, _message(spec))


def _state(spec: dict[str, object]) -> State:
    state = str(spec["State"])
    return State.SKIPPED if state == "pending" else State(state) if state in set(State) else State.FAILED


def _message(spec: dict[str, object]) -> str:
    failure = spec.get("Failure")
    return str(failure.get("Message", "")) if isinstance(failure, dict) else ""


def _suite_failures(suite: dict[str, object], found: Sequence[Outcome]) -> list[str]:
    """Why the suite as a whole failed, where no test tells."""
    if suite["SuiteSucceeded"] or any(outcome.state is State.FAILED for outcome in found):
        return []
    reasons = suite.get("SpecialSuiteFailureReasons")
    return [str(reason) for reason in reasons] if isinstance(reasons, list) and reasons else ["the suite failed"]
