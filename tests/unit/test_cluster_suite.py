"""The report on Kubernetes' storage suite: nothing is left out in silence."""

import json
from pathlib import Path
from xml.etree import ElementTree

from tests.cluster.suite.left_out import LeftOut
from tests.cluster.suite.report import Outcome, State, Verdict, judge, read_outcomes, to_text, write_junit
from tests.support.count import counts_of

NTFS = LeftOut("ntfs", "a filesystem of Windows", says="no support of ntfs")


def test_a_report_is_read_as_tests_by_their_names(tmp_path: Path) -> None:
    outcomes = read_outcomes(
        written(
            tmp_path,
            spec("stores data", RunTime=2_500_000_000),
            spec("reads ntfs", "skipped", Failure={"Message": "not here"}),
        )
    )
    assert outcomes == [
        Outcome("[Driver: d] [Testpattern: Dynamic PV] reads ntfs", State.SKIPPED, 0.0, "not here"),
        Outcome("[Driver: d] [Testpattern: Dynamic PV] stores data", State.PASSED, 2.5),
    ]


def test_whatever_is_no_success_and_no_skip_is_a_failure(tmp_path: Path) -> None:
    states = ("failed", "panicked", "timedout", "interrupted", "aborted")
    report = written(tmp_path, *(spec(state, state) for state in states))
    assert [outcome.state for outcome in read_outcomes(report)] == [State.FAILED] * len(states)


def test_a_broken_setup_of_the_suite_is_a_failure(tmp_path: Path) -> None:
    setup = spec("", "failed", LeafNodeType="SynchronizedBeforeSuite", Failure={"Message": "no node"})
    (outcome,) = read_outcomes(written(tmp_path, setup))
    assert (outcome.name, outcome.state, outcome.message) == ("(SynchronizedBeforeSuite)", State.FAILED, "no node")


def test_a_suite_that_failed_without_a_failed_test_is_a_failure(tmp_path: Path) -> None:
    report = written(tmp_path, spec("stores data"), succeeded=False, reasons=["timeout"])
    assert [outcome.message for outcome in read_outcomes(report) if outcome.state is State.FAILED] == ["timeout"]


def test_a_test_left_out_by_a_rule_has_its_reason() -> None:
    verdict = judged(passed("a"), skipped("ntfs b"))
    assert [(outcome.name, reason) for outcome, reason in verdict.left_out] == [("ntfs b", NTFS.reason)]
    assert verdict.is_good


def test_a_test_left_out_without_a_rule_is_a_problem() -> None:
    verdict = judged(passed("a"), skipped("b", "no such capability"), skipped("ntfs c"))
    assert verdict.problems == ["left out without a listed reason: b: no such capability"]
    assert not verdict.is_good


def test_a_test_left_out_in_other_words_than_its_rules_is_a_problem() -> None:
    verdict = judged(passed("a"), skipped("ntfs b"), skipped("ntfs c", "no such node"), skipped("ntfs d", ""))
    assert [problem.partition(": ")[2] for problem in verdict.problems] == ["ntfs c: no such node", "ntfs d: not run"]


def test_what_ginkgo_is_told_says_nothing() -> None:
    told = LeftOut("slow", "it is slow")
    assert told.excluded
    assert told.explains("slow a", "")
    assert not told.explains("slow a", "no such node")
    assert not NTFS.excluded


def test_a_rule_that_leaves_nothing_out_is_a_problem() -> None:
    assert judged(passed("a")).problems == ["nothing was left out by the rule ntfs"]
    assert judged(passed("a"), at_least=None).problems == []


def test_too_few_tests_are_a_problem() -> None:
    assert judged(passed("a"), skipped("ntfs b"), at_least=2).problems == ["only 1 tests ran; at least 2 have to"]


def test_only_the_tests_that_were_asked_for_count() -> None:
    verdict = judged(passed("grow a"), skipped("b"), focus="grow", at_least=None)
    assert (len(verdict.passed), verdict.left_out, verdict.problems) == (1, [], [])


def test_a_failure_counts_whatever_was_asked_for() -> None:
    assert not judged(passed("grow a"), Outcome("(suite)", State.FAILED), focus="grow").is_good


def test_the_text_names_every_test() -> None:
    text = to_text(judged(passed("a"), skipped("ntfs b"), Outcome("c", State.FAILED, message="gone\nmore")))
    assert text.splitlines() == [
        "Kubernetes' storage suite: 1 passed, 1 failed, 1 left out in 60 s",
        "  failed c: gone",
        "  passed a (0 s)",
        "  left out, a filesystem of Windows:",
        "    ntfs b",
    ]


def test_problems_fail_in_junit_too(tmp_path: Path) -> None:
    write_junit(tmp_path / "suite.xml", judged(passed("a"), skipped("b"), skipped("ntfs c")))
    counts = counts_of(tmp_path / "suite.xml")
    assert (counts.passed, counts.failed, counts.skipped) == (1, 1, 2)


def test_junit_is_written_of_any_message(tmp_path: Path) -> None:
    write_junit(tmp_path / "suite.xml", judged(Outcome("a", State.FAILED, message="\x1b[31m\x00"), skipped("ntfs")))
    (failure,) = ElementTree.parse(tmp_path / "suite.xml").getroot().iter("failure")
    assert failure.text == "?[31m?"


def passed(name: str) -> Outcome:
    return Outcome(name, State.PASSED)


def skipped(name: str, message: str = "no support of ntfs here") -> Outcome:
    return Outcome(name, State.SKIPPED, message=message)


def judged(*outcomes: Outcome, focus: str = "", at_least: int | None = 1) -> Verdict:
    return judge(outcomes, [NTFS], focus=focus, at_least=at_least, seconds=60.0)


def spec(text: str, state: str = "passed", **fields: object) -> dict[str, object]:
    """A part of ginkgo/v2/types, SpecReport."""
    return {
        "LeafNodeType": "It",
        "LeafNodeText": text,
        "ContainerHierarchyTexts": ["External Storage [Driver: d]", "[Testpattern: Dynamic PV]"],
        "State": state,
        "RunTime": 0,
        **fields,
    }


def written(
    directory: Path, *specs: dict[str, object], succeeded: bool = True, reasons: list[str] | None = None
) -> Path:
    path = directory / "report.json"
    suite = {"SuiteSucceeded": succeeded, "SpecReports": specs, "SpecialSuiteFailureReasons": reasons}
    path.write_text(json.dumps([suite]))
    return path
