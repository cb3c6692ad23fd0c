"""The suite, run by Ginkgo with several processes and a deadline."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.programs import program as cluster_program
from tests.cluster.suite import programs
from tests.cluster.suite.left_out import LeftOut
from tests.cluster.suite.report import SUITE, Outcome, State, Verdict, judge, read_outcomes

DEFINITIONS = tuple(Path(__file__).parent / name for name in ("test-driver.yaml", "test-driver-xfs.yaml"))
# All tests on ext4, the chart's default, or on what the test itself names. On xfs those of growth and of capacity.
FOCUS = (
    r"\[Driver: rds\.csi\.rds-csi\.io\]|\[Driver: rds\.csi\.rds-csi\.io\.xfs\].*\(default fs\).*"
    r"(volume-expand (Verify|should resize)|ephemeral should support expansion|larger size pvc|capacity)"
)

# How many tests ran when this number was last looked at. That it gets smaller is a fault of the lane.
AT_LEAST = 133
# Tests mostly wait: for a pod, for the suite's own next look two seconds later.
PROCESSES = 10
# Three times what it takes on a busy machine.
DEADLINE_SECONDS = 2400.0
# What Ginkgo gets beyond its own deadline to end the tests that run, and to write its report.
_GRACE_SECONDS = 120.0


def run_suite(
    rules: Sequence[LeftOut], kubeconfig: Path, directory: Path, *, processes: int = PROCESSES, focus: str = FOCUS
) -> Verdict:
    """Run the tests that ``focus`` (a regular expression) finds in their names; Ginkgo's files are in ``directory``."""
    begun = time.monotonic()
    skips = [f"--skip={rule.names}" for rule in rules if rule.excluded]
    command = [
        *(str(programs.program("ginkgo")), f"--procs={processes}", f"--timeout={DEADLINE_SECONDS:.0f}s"),
        *("--no-color", "--silence-skips", "--json-report=report.json", f"--output-dir={directory}"),
        *(f"--focus={SUITE}.*({focus})", *skips, str(programs.program("storage.test")), "--"),
        *(f"--kubeconfig={kubeconfig}", f"--kubectl-path={cluster_program('kubectl')}", "--provider=skeleton"),
        *(f"--storage.testdriver={definition}" for definition in DEFINITIONS),
        f"--e2e-output-dir={directory}",
    ]
    complaint = _run(command, directory)
    try:
        outcomes = read_outcomes(directory / "report.json")
    except (OSError, ValueError, KeyError) as error:
        outcomes = [Outcome("(suite)", State.FAILED, message=f"there is no report of it: {error!r}")]
    if complaint:
        outcomes.append(Outcome("(suite)", State.FAILED, message=complaint))
    seconds = time.monotonic() - begun
    at_least = AT_LEAST if focus == FOCUS else None
    return judge(outcomes, rules, focus=focus, at_least=at_least, seconds=seconds)


def _run(command: Sequence[str], directory: Path) -> str:
    """What went wrong with Ginkgo itself, for a person; "" when it ended by itself. Its output is kept."""
    seconds = DEADLINE_SECONDS + _GRACE_SECONDS
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"it had not ended {seconds:.0f} s after its start"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return ""
