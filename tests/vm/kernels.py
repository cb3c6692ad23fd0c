"""Stock Debian kernels ready to boot, kept in the user's cache: one directory for each package version."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.vm.apt import Apt, AptError, Package
from tests.vm.initramfs import build_initramfs
from tests.vm.sources import Source, read_sources
from tests.vm.vmlinux import extract_vmlinux

# The suite that must be among the machine's own apt sources; the others are beside it.
BASE_SUITE = "bookworm"
UPDATE_SUITES = (BASE_SUITE, f"{BASE_SUITE}-updates", f"{BASE_SUITE}-security")
BACKPORTS_SUITE = f"{BASE_SUITE}-backports"

_UNPACK_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that qemu can boot: its release (``uname -r``), the ELF file and the initramfs."""

    release: str
    vmlinux: Path
    initramfs: Path


def _of_debian_12(own: list[Source]) -> list[Source]:
    """Debian 12's own kernel: the base suite with the updates that this machine gets."""
    named = ((source, [suite for suite in UPDATE_SUITES if suite in source.words("suites")]) for source in own)
    return [source.only(*suites) for source, suites in named if suites]


def _of_backports(own: list[Source]) -> list[Source]:
    """Debian's backports, at the place that serves the base suite, whether this machine uses them or not."""
    return [source.only(BACKPORTS_SUITE) for source in own if BASE_SUITE in source.words("suites")]


# By the first two numbers of the release.
VERSIONS = {"6.1": _of_debian_12, "6.12": _of_backports}


def cache_directory() -> Path:
    """Where kernels are kept (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rds-csi" / "vm"


def ready_kernel(version: str, *, cache: Path | None = None) -> Kernel:
    """The kernel of ``VERSIONS``, downloaded and prepared at the first call, then from the cache, without network.

    The package lists are fetched once: remove the cache to get a newer kernel. AptError when the kernel
    cannot be had.
    """
    cache = cache or cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{version}.lock"):
        apt = Apt(cache / f"apt-{version}", _sources(version))
        try:
            home = _home(cache, version, apt.kernel_package())
        except AptError:
            # The first time: there are no lists yet.
            home = None
        if home is None or not home.exists():
            # Old lists may name what the mirror has dropped since.
            apt.update()
            package = apt.kernel_package()
            home = _home(cache, version, package)
            if not home.exists():
                _prepare(apt, package, home)
    return Kernel((home / "release").read_text(), home / "vmlinux", home / "initramfs")


def _home(cache: Path, version: str, package: Package) -> Path:
    """Where the package is kept, ready to boot."""
    if not package.name.startswith(f"linux-image-{version}."):
        raise AptError(f"{package.name} is what this machine's mirror offers where {version} was looked for")
    return cache / f"{package.key}-{_recipe()}"


def _sources(version: str) -> list[Source]:
    own = [source for source in read_sources(Path("/etc/apt")) if source.is_debian_binary]
    if not _of_backports(own):
        raise AptError(f"no apt source of this machine has the suite {BASE_SUITE}: the kernels are Debian 12's")
    return VERSIONS[version](own)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time prepares a kernel; the others wait and find it."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _recipe() -> str:
    """A digest of what turns a package into a kernel, so that a changed recipe is cooked anew."""
    digest = hashlib.sha256()
    for name in ("init", "initramfs.py", "kernels.py", "modules.py", "vmlinux.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:12]


def _prepare(apt: Apt, package: Package, home: Path) -> None:
    """Make ``home``, complete or not at all."""
    print(f"preparing {package.name} {package.version}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="new-") as temporary:
        work = Path(temporary)
        for name in ("deb", "tree", "initramfs", "home"):
            (work / name).mkdir()
        deb = apt.download(package, work / "deb")
        subprocess.run(["dpkg-deb", "-x", str(deb), str(work / "tree")], check=True, timeout=_UNPACK_SECONDS)
        (image,) = (work / "tree/boot").glob("vmlinuz-*")
        (work / "home/release").write_text(image.name.removeprefix("vmlinuz-"))
        (work / "home/vmlinux").write_bytes(extract_vmlinux(image.read_bytes()))
        (work / "home/initramfs").write_bytes(build_initramfs(work / "tree", work / "initramfs"))
        for old in home.parent.glob(f"{package.key}-*"):
            shutil.rmtree(old)
        (work / "home").rename(home)
