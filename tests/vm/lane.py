"""``python -m tests.vm.lane``: the kernel lane, one virtual machine for every kernel and setting.

In each of them runs ``pytest tests/kernel`` once; the lane fails when one of them fails or has run no test.
"""

import argparse
import compileall
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vm.__main__ import NO_MULTIPATH
from tests.vm.apt import AptError
from tests.vm.kernels import ready_kernel
from tests.vm.machine import RESULTS, Machine

ROOT = Path(__file__).parents[2]
TESTS = "tests/kernel"

# All tests of one setting; csi-sanity takes most of it.
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


SETTINGS = {
    "6.1": Setting("6.1"),
    "6.1-nomultipath": Setting("6.1", (NO_MULTIPATH,)),
    "6.12": Setting("6.12"),
}


def main() -> int:
    """Run the settings one after the other; 1 when one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm.lane", description="Run tests/kernel on real kernels.")
    parser.add_argument("--setting", action="append", choices=list(SETTINGS), help="only this one (may be repeated)")
    parser.add_argument("--results", type=Path, help="a directory that gets kernel-SETTING.xml (JUnit)")
    parser.add_argument("pytest", nargs="*", help=f"arguments for pytest, behind -- (default: {TESTS})")
    flags = parser.parse_args()
    compile_beforehand()
    outcomes = []
    for name in flags.setting or SETTINGS:
        print(f"=== kernel {name}", flush=True)
        begun = time.monotonic()
        status = run(name, SETTINGS[name], flags.pytest or [TESTS], flags.results)
        outcomes.append((name, status, time.monotonic() - begun))
    for name, status, seconds in outcomes:
        print(f"kernel {name}: {'passed' if status == 0 else f'failed ({status})'} in {seconds:.0f} s", flush=True)
    return 1 if any(status for _, status, _ in outcomes) else 0


def run(name: str, setting: Setting, arguments: list[str], results: Path | None) -> int:
    """pytest's exit status in one machine: 0 only when tests ran and all passed."""
    try:
        kernel = ready_kernel(setting.kernel)
    except (AptError, LookupError, OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"no kernel {setting.kernel}: {error}", file=sys.stderr, flush=True)
        return pytest.ExitCode.INTERNAL_ERROR
    report = [f"--junit-xml={RESULTS}/kernel-{name}.xml"] if results else []
    return Machine(kernel, setting.arguments, MEMORY).run(
        [sys.executable, *PYTEST, *report, *arguments],
        directory=ROOT,
        output=sys.stdout.buffer,
        results=results and results.resolve(),
        timeout=SETTING_SECONDS,
    )


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
