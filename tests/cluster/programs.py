"""The Go programs of a Kubernetes and of the CSI sidecars: built once from the module proxy into the user's cache."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The same directory as the other lanes' programs.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rds-csi"
MODULE = Path(__file__).parent / "go"

_KUBERNETES = "k8s.io/kubernetes/cmd"
_CSI = "github.com/kubernetes-csi"
_SNAPSHOTTER = f"{_CSI}/external-snapshotter/v8/cmd"
# In this order the packages that most have in common are compiled first.
PROGRAMS = {
    "kube-apiserver": f"{_KUBERNETES}/kube-apiserver",
    "kube-controller-manager": f"{_KUBERNETES}/kube-controller-manager",
    "kube-scheduler": f"{_KUBERNETES}/kube-scheduler",
    "kubelet": f"{_KUBERNETES}/kubelet",
    "kubectl": f"{_KUBERNETES}/kubectl",
    "etcd": "go.etcd.io/etcd/server/v3",
    "csi-provisioner": f"{_CSI}/external-provisioner/v6/cmd/csi-provisioner",
    "csi-attacher": f"{_CSI}/external-attacher/v4/cmd/csi-attacher",
    "csi-resizer": f"{_CSI}/external-resizer/v2/cmd/csi-resizer",
    "csi-snapshotter": f"{_SNAPSHOTTER}/csi-snapshotter",
    "snapshot-controller": f"{_SNAPSHOTTER}/snapshot-controller",
}
SIDECARS = ("csi-provisioner", "csi-attacher", "csi-resizer", "csi-snapshotter")
_CRD_MODULE = f"{_CSI}/external-snapshotter/client/v8"
_CRD_GROUPS = ("snapshot.storage.k8s.io", "groupsnapshot.storage.k8s.io")

# Without this tag gRPC draws in a package that keeps the linker from leaving out unused methods: a third more size.
_TAGS = "grpcnotrace"
# kube-apiserver compiles for eight CPU minutes; the machine may be busy, the proxy slow.
_BUILD_SECONDS = 7200.0
_DOWNLOAD_SECONDS = 600.0


def home() -> Path:
    """Where the programs of this go.mod and these flags are: bin/, crds/."""
    recipe = (MODULE / "go.mod").read_text() + (MODULE / "go.sum").read_text() + _linker_flags() + _TAGS
    return CACHE / "cluster" / hashlib.sha256(recipe.encode()).hexdigest()[:16]


def program(name: str) -> Path:
    """The path of a program that ``build`` has made."""
    return home() / "bin" / name


def crds() -> list[Path]:
    """The CustomResourceDefinitions of snapshots, as their client module has them."""
    return sorted((home() / "crds").glob("*.yaml"))


def missing() -> list[str]:
    """What ``build`` would make."""
    lacking = [name for name in PROGRAMS if not program(name).exists()]
    groups = {path.name.partition("_")[0] for path in crds()}
    return [*lacking, *(f"the CustomResourceDefinitions of {group}" for group in _CRD_GROUPS if group not in groups)]


def build(go: str, jobs: int) -> None:
    """Make what is missing. What Go needs for it (10 GB) goes when all is there, not when a build was broken off."""
    if not missing():
        return
    with _alone():
        scratch = home() / "building"
        for name, package in PROGRAMS.items():
            if not program(name).exists():
                _build_program(go, jobs, scratch, name, package)
        _copy_crds(go, scratch)
        shutil.rmtree(scratch)


def module_version(path: str) -> str:
    """The version of a module in go.mod: ``v1.36.3``."""
    match = re.search(rf"^\s*(?:require )?{re.escape(path)} (v\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise LookupError(f"{MODULE}/go.mod does not name {path}")
    return match[1]


def _build_program(go: str, jobs: int, scratch: Path, name: str, package: str) -> None:
    begun = time.monotonic()
    made = scratch / "bin" / name
    arguments = ["build", f"-p={jobs}", f"-tags={_TAGS}", f"-ldflags={_linker_flags()}", f"-o={made}", package]
    subprocess.run([go, *arguments], cwd=MODULE, env=_environment(scratch), check=True, timeout=_BUILD_SECONDS)
    program(name).parent.mkdir(parents=True, exist_ok=True)
    os.replace(made, program(name))
    print(f"built {name} in {time.monotonic() - begun:.0f} s", flush=True)


def _copy_crds(go: str, scratch: Path) -> None:
    fetch = [go, "mod", "download", "-json", _CRD_MODULE]
    fetched = subprocess.run(
        fetch, cwd=MODULE, env=_environment(scratch), check=True, timeout=_DOWNLOAD_SECONDS, stdout=subprocess.PIPE
    )
    made = scratch / "crds"
    made.mkdir(parents=True, exist_ok=True)
    for group in _CRD_GROUPS:
        for path in Path(json.loads(fetched.stdout)["Dir"], "config/crd").glob(f"{group}_*.yaml"):
            shutil.copyfile(path, made / path.name)
    shutil.rmtree(home() / "crds", ignore_errors=True)
    os.replace(made, home() / "crds")


def _environment(scratch: Path) -> dict[str, str]:
    flags = f"{os.environ.get('GOFLAGS', '')} -mod=readonly -modcacherw -trimpath -buildvcs=false".strip()
    own = {"GOPATH": f"{scratch}/path", "GOCACHE": f"{scratch}/cache", "GOFLAGS": flags}
    return {**os.environ, **own, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}


def _linker_flags() -> str:
    """No debug symbols, and the version that a release would have: API discovery and kubectl look at it."""
    version = module_version("k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".")
    values = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "unknown",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    settings = [f"-X {package}.{name}={value}" for package in packages for name, value in values.items()]
    return " ".join(["-s", "-w", *settings])


@contextmanager
def _alone() -> Iterator[None]:
    """One build at a time, also among several runs of the lane."""
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
