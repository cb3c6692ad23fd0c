"""``python -m tests.vm.lane``: the kernel lane, ``pytest tests/kernel`` on every kernel and setting.

A virtual machine runs one setting. With ``--machines 2`` it runs half of the test files of one, and two run at once:
each wants two processors. What hardly depends on the host's kernel (ONCE) runs on one setting alone.
The lane fails when one of them fails or has run no test.
"""

import argparse
import asyncio
import compileall
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vm.__main__ import NO_MULTIPATH
from tests.vm.apt import AptError
from tests.vm.kernels import ready_kernel
from tests.vm.machine import RESULTS, Machine

ROOT = Path(__file__).parents[2]
TESTS = "tests/kernel"

# Files of tests whose subject is the driver's calls or the array, and the one setting that runs them: they take a
# quarter of a setting's time, and what they need of the kernel the other files test on all of them.
ONCE = {"test_routeros_life.py": "6.1", "test_sanity.py": "6.12"}

# All tests of one setting, on a busy machine.
SETTING_SECONDS = 3600.0
MEMORY = "3G"

PYTEST = (
    *("-m", "pytest", "--durations=5", "-p", "no:cacheprovider"),
    # Plugins that no test here uses: importing them takes 10 s in there.
    *("-p", "no:hypothesispytest", "-p", "no:anyio"),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A kernel, and how its NVMe host works."""

    kernel: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Every ``of``-th test file, from number ``number`` on: so each part takes about as long."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """``1/2``; ValueError when it is no such part."""
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"no part of the test files: {text!r}")
        return cls(int(match[1]), int(match[2]))

    def of_files(self, everything: Sequence[str]) -> list[str]:
        """Its share of these."""
        return list(everything[self.number - 1 :: self.of])

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


HALVES = (Part(1, 2), Part(2, 2))


@dataclass(frozen=True, slots=True)
class Job:
    """What one machine does: the tests of one setting, or a part of them."""

    setting: str
    part: Part | None = None

    def files(self, *, everywhere: bool = False) -> list[str]:
        """Its test files, by their paths from the root; ``everywhere`` with those that run ONCE."""
        names = sorted(path.name for path in (ROOT / TESTS).glob("test_*.py"))
        here = [f"{TESTS}/{name}" for name in names if everywhere or ONCE.get(name, self.setting) == self.setting]
        return self.part.of_files(here) if self.part else here

    def __str__(self) -> str:
        return f"{self.setting}-{self.part.number}" if self.part else self.setting


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: pytest's exit status, 0 only when tests ran and all passed."""

    job: Job
    status: int
    seconds: float

    def __str__(self) -> str:
        how = "passed" if self.status == 0 else f"failed ({self.status})"
        return f"kernel {self.job}: {how} in {self.seconds:.0f} s"


SETTINGS = {
    "6.1": Setting("6.1"),
    "6.1-nomultipath": Setting("6.1", (NO_MULTIPATH,)),
    "6.12": Setting("6.12"),
}


def main() -> int:
    """Run the settings; 1 when one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm.lane", description="Run tests/kernel on real kernels.")
    parser.add_argument("--setting", action="append", choices=list(SETTINGS), help="only this one (may be repeated)")
    parser.add_argument("--part", type=Part.parse, help="only a part of the test files, as 1/2 or 2/2")
    parser.add_argument("--everywhere", action="store_true", help=f"also {' and '.join(ONCE)} on every setting")
    parser.add_argument("--machines", type=int, default=1, help="how many run at once (default: %(default)s)")
    parser.add_argument("--results", type=Path, help="a directory that gets kernel-SETTING.xml (JUnit)")
    parser.add_argument("pytest", nargs="*", help=f"arguments for pytest, behind -- (default: {TESTS})")
    flags = parser.parse_args()
    if flags.machines > 1 and flags.pytest:
        parser.error("several machines at once take no arguments for pytest")
    results = flags.results and flags.results.resolve()
    settings = flags.setting or list(SETTINGS)
    if flags.part is None:
        compile_beforehand()
    begun = time.monotonic()
    if flags.machines > 1:
        jobs = [Job(name, part) for name in settings for part in HALVES]
        handed_on = ["--everywhere"] if flags.everywhere else []
        handed_on += [f"--results={results}"] if results else []
        outcomes = asyncio.run(run_at_once(jobs, flags.machines, handed_on))
    else:
        jobs = [Job(name, flags.part) for name in settings]
        outcomes = [run(job, flags.pytest or job.files(everywhere=flags.everywhere), results) for job in jobs]
    if flags.part is None:
        for outcome in outcomes:
            print(outcome, flush=True)
        print(f"kernel lane: {time.monotonic() - begun:.0f} s", flush=True)
    return 1 if any(outcome.status for outcome in outcomes) else 0


async def run_at_once(jobs: Sequence[Job], machines: int, flags: Sequence[str]) -> list[Outcome]:
    """Run every job, each in a process of its own; what one prints is shown when it has ended."""
    free = asyncio.Semaphore(machines)

    async def run_one(job: Job) -> Outcome:
        async with free:
            print(f"kernel {job}: started", flush=True)
            return await run_apart(job, flags)

    return await asyncio.gather(*map(run_one, jobs))


async def run_apart(job: Job, flags: Sequence[str]) -> Outcome:
    """One job in a process of its own, which does not outlive this one."""
    begun = time.monotonic()
    chosen = (f"--setting={job.setting}", f"--part={job.part}")
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.vm.lane", *chosen, *flags),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            # Its machine goes with it.
            process.kill()
            await process.wait()
    sys.stdout.buffer.write(output)
    sys.stdout.flush()
    assert process.returncode is not None
    return Outcome(job, process.returncode, time.monotonic() - begun)


def run(job: Job, arguments: Sequence[str], results: Path | None) -> Outcome:
    """One job in one machine; its output goes to standard output as it comes."""
    print(f"=== kernel {job}", flush=True)
    begun = time.monotonic()
    setting = SETTINGS[job.setting]
    try:
        kernel = ready_kernel(setting.kernel)
    except (AptError, LookupError, OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"no kernel {setting.kernel}: {error}", file=sys.stderr, flush=True)
        return Outcome(job, pytest.ExitCode.INTERNAL_ERROR, time.monotonic() - begun)
    report = [f"--junit-xml={RESULTS}/kernel-{job}.xml"] if results else []
    status = Machine(kernel, setting.arguments, MEMORY).run(
        [sys.executable, *PYTEST, *report, *arguments],
        directory=ROOT,
        output=sys.stdout.buffer,
        results=results,
        timeout=SETTING_SECONDS,
    )
    return Outcome(job, status, time.monotonic() - begun)


def compile_beforehand() -> None:
    """Write all .pyc files: in the guest compiling is 20 times slower, and what it writes is lost."""
    for directory in (sysconfig.get_path("purelib"), ROOT / "rds_csi", ROOT / "tests"):
        compileall.compile_dir(directory, quiet=2)
    # pytest's own, with its assertions rewritten.
    subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "--quiet", TESTS],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=False,
        timeout=120,
    )


if __name__ == "__main__":
    sys.exit(main())
