"""The suite as a program, the command that runs it in parallel, and the image of its pods: built once from the module
proxy into the user's cache."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.cluster.programs import CACHE

MODULE = Path(__file__).parent / "go"

_AGNHOST = "k8s.io/kubernetes/test/images/agnhost"
# Words of the go command for each program. The suite comes first: it has most of what the others need.
PROGRAMS = {
    # Ginkgo knows a suite by the end of its name.
    "storage.test": ("test", "-c", "-vet=off", "./storage"),
    "ginkgo": ("build", "github.com/onsi/ginkgo/v2/ginkgo"),
    "agnhost": ("build", _AGNHOST),
}
# The version of the image that the suite asks for.
_AGNHOST_VERSION = "VERSION"

# Without this tag gRPC draws in a package that keeps the linker from leaving out unused methods.
_TAGS = "-tags=grpcnotrace"
_LINKER_FLAGS = "-ldflags=-s -w"
# Three CPU minutes for the suite; the machine may be busy, the proxy slow.
_BUILD_SECONDS = 7200.0
_LIST_SECONDS = 600.0


def home() -> Path:
    """Where the programs of these sources are."""
    sources = [path for path in sorted(MODULE.rglob("*")) if path.is_file()]
    recipe = b"".join(path.read_bytes() for path in sources) + f"{PROGRAMS}{_TAGS}{_LINKER_FLAGS}".encode()
    return CACHE / "cluster" / f"suite-{hashlib.sha256(recipe).hexdigest()[:16]}"


def program(name: str) -> Path:
    """The path of a program that ``build`` has made."""
    return home() / name


def agnhost_version() -> str:
    """The tag of the image that the suite's pods ask for."""
    return (home() / _AGNHOST_VERSION).read_text().strip()


def missing() -> list[str]:
    """What ``build`` would make."""
    return [name for name in (*PROGRAMS, _AGNHOST_VERSION) if not program(name).exists()]


def build(go: str, jobs: int) -> None:
    """Make what is missing. What Go needs for it (3 GB) goes when all is there, not when a build was broken off."""
    if not missing():
        return
    home().mkdir(parents=True, exist_ok=True)
    # One build at a time, also among several runs of the lane.
    with (home() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        scratch = home() / "building"
        for name, words in PROGRAMS.items():
            if not program(name).exists():
                _build_program(go, jobs, scratch, name, words)
        if not program(_AGNHOST_VERSION).exists():
            directory = _run(go, scratch, "list", "-f={{.Dir}}", _AGNHOST, timeout=_LIST_SECONDS).strip()
            shutil.copyfile(Path(directory, "VERSION"), program(_AGNHOST_VERSION))
        shutil.rmtree(scratch, ignore_errors=True)


def _build_program(go: str, jobs: int, scratch: Path, name: str, words: tuple[str, ...]) -> None:
    begun = time.monotonic()
    made = scratch / name
    *command, package = words
    _run(go, scratch, *command, f"-p={jobs}", _TAGS, _LINKER_FLAGS, f"-o={made}", package, timeout=_BUILD_SECONDS)
    os.replace(made, program(name))
    print(f"built {name} in {time.monotonic() - begun:.0f} s", flush=True)


def _run(go: str, scratch: Path, *words: str, timeout: float) -> str:
    scratch.mkdir(exist_ok=True)
    flags = f"{os.environ.get('GOFLAGS', '')} -mod=readonly -modcacherw -trimpath -buildvcs=false".strip()
    own = {"GOPATH": f"{scratch}/path", "GOCACHE": f"{scratch}/cache", "GOFLAGS": flags}
    environment = {**os.environ, **own, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    done = subprocess.run(
        [go, *words], cwd=MODULE, env=environment, check=True, timeout=timeout, stdout=subprocess.PIPE, text=True
    )
    return done.stdout
