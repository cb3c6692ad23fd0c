"""The container runtime: Debian's packages, unpacked into the cache and not installed: no service is started."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.cluster.programs import CACHE

PACKAGES = ("busybox-static", "containerd", "containernetworking-plugins", "runc")

_UPDATE_SECONDS = 300.0
_DOWNLOAD_SECONDS = 600.0
_UNPACK_SECONDS = 120.0

ROOT = CACHE / "cluster" / "debian"
CNI_PLUGINS = ROOT / "usr/lib/cni"
_BIN_DIRECTORIES = ("usr/bin", "usr/sbin", "bin", "sbin")


def tool(name: str) -> Path:
    """A program of the packages; FileNotFoundError when it is not there."""
    for directory in _BIN_DIRECTORIES:
        if (path := ROOT / directory / name).exists():
            return path
    raise FileNotFoundError(f"{ROOT} has no {name}: python -m tests.cluster.build")


def unpack() -> None:
    """Fetch and unpack what is not there yet."""
    if ROOT.exists():
        return
    ROOT.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as scratch:
        _download(Path(scratch))
        for package in Path(scratch).glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, f"{scratch}/root"], check=True, timeout=_UNPACK_SECONDS)
        shutil.move(f"{scratch}/root", ROOT)


def _download(directory: Path) -> None:
    # The directory belongs to the caller; the user _apt could not write into it.
    download = ["apt-get", "--quiet", "--option=APT::Sandbox::User=", "download", *PACKAGES]
    if subprocess.run(download, cwd=directory, timeout=_DOWNLOAD_SECONDS).returncode:
        # The lists are old or were never fetched.
        subprocess.run(["apt-get", "--quiet", "update"], check=True, timeout=_UPDATE_SECONDS)
        subprocess.run(download, cwd=directory, check=True, timeout=_DOWNLOAD_SECONDS)
