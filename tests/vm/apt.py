"""Kernel packages by apt, with lists, cache and sources of its own: the machine's apt state stays as it is."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm.sources import Source

# A mirror that is slow is waited for; one that hangs is not.
UPDATE_SECONDS = 300.0
DOWNLOAD_SECONDS = 600.0
LOOKUP_SECONDS = 60.0

# The package that always depends on the newest kernel of its suite.
META_PACKAGE = "linux-image-amd64"


class AptError(Exception):
    """apt could not do it; the text says what, and apt's own words."""


@dataclass(frozen=True, slots=True)
class Package:
    """One binary package in one version."""

    name: str
    version: str

    @property
    def key(self) -> str:
        """A file name for it."""
        return f"{self.name}_{self.version.replace(':', '%3a')}"


class Apt:
    """apt for one set of sources, everything it writes below ``state``."""

    def __init__(self, state: Path, sources: Sequence[Source]) -> None:
        self._state = state
        self._sources = sources

    def kernel_package(self) -> Package:
        """The newest kernel image of the sources, by the lists of the last ``update``; AptError without any."""
        depends = self._apt("apt-cache", "depends", META_PACKAGE, timeout=LOOKUP_SECONDS)
        names = [line.split()[1] for line in depends.splitlines() if line.strip().startswith("Depends: linux-image-")]
        if not names:
            raise AptError(f"{META_PACKAGE} depends on no kernel image: {depends.strip()!r}")
        shown = self._apt("apt-cache", "--no-all-versions", "show", names[0], timeout=LOOKUP_SECONDS)
        versions = [line.split()[1] for line in shown.splitlines() if line.startswith("Version:")]
        if not versions:
            raise AptError(f"apt knows no version of {names[0]}")
        return Package(names[0], versions[0])

    def update(self) -> None:
        """Fetch the lists. A source that fails is told only when no kernel can be found afterwards."""
        for name in ("lists/partial", "cache/archives/partial"):
            (self._state / name).mkdir(parents=True, exist_ok=True)
        (self._state / "status").touch()
        text = "\n".join(source.to_deb822() for source in self._sources)
        (self._state / "kernel.sources").write_text(text)
        try:
            self._apt("apt-get", "update", timeout=UPDATE_SECONDS)
        except AptError as error:
            try:
                self.kernel_package()
            except AptError:
                raise error from None

    def download(self, package: Package, directory: Path) -> Path:
        """The package's file, fetched into ``directory``."""
        wanted = f"{package.name}={package.version}"
        self._apt("apt-get", "download", wanted, timeout=DOWNLOAD_SECONDS, directory=directory)
        (found,) = directory.glob(f"{package.name}_*.deb")
        return found

    def _apt(self, program: str, *words: str, timeout: float, directory: Path | None = None) -> str:
        """Run apt; its stdout. Everything else of the machine's configuration (proxies, keys) stays in force."""
        settings = {
            "Dir::State": self._state,
            "Dir::State::lists": self._state / "lists",
            "Dir::State::status": self._state / "status",
            "Dir::Cache": self._state / "cache",
            # Container images switch this one off; without it every look-up parses the lists anew (0.4 s).
            "Dir::Cache::pkgcache": "pkgcache.bin",
            "Dir::Etc::sourcelist": self._state / "kernel.sources",
            "Dir::Etc::sourceparts": "/dev/null",
            # The directory belongs to the caller; the user _apt could not write into it.
            "APT::Sandbox::User": "",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        try:
            done = subprocess.run(
                [program, "-q", *options, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                cwd=directory,
                env={**os.environ, "LC_ALL": "C"},
            )
        except (subprocess.TimeoutExpired, FileNotFoundError) as error:
            raise AptError(f"{program} {' '.join(words)}: {error}") from None
        if done.returncode:
            raise AptError(f"{program} {' '.join(words)} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout
