"""The stand-in for Debian's own base image: a minimal trixie from the machine's apt mirror, kept in the cache."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.vm.sources import Source, read_sources

SUITE = "trixie"
# The suite of the machine's own sources, Debian 12.
OWN_SUITE = "bookworm"
# After it the packages are fetched anew, security updates among them.
FRESH_SECONDS = 7 * 24 * 3600.0
_BOOTSTRAP_SECONDS = 900.0


class BuildError(Exception):
    """The image or its base could not be made; the text is what the tool said last."""


def ready_base(cache: Path) -> Path:
    """A tar file of the root directory; made when there is none of the last days. BuildError."""
    for found in sorted(cache.glob(f"base-{SUITE}-*.tar"), reverse=True):
        if time.time() - found.stat().st_mtime < FRESH_SECONDS:
            return found
        found.unlink()
    base = cache / f"base-{SUITE}-{time.strftime('%Y%m%d')}.tar"
    unfinished = base.with_suffix(".new")
    words = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=tar", *_apt_options()]
    run([*words, SUITE, str(unfinished), "-"], timeout=_BOOTSTRAP_SECONDS, text=_sources())
    return unfinished.rename(base)


def _sources() -> str:
    """The machine's own sources, for trixie."""
    own = [source for source in read_sources(Path("/etc/apt")) if source.is_debian_binary]
    found = [source.only(*suites) for source in own if (suites := tuple(_renamed(source)))]
    if not found:
        raise BuildError(f"no apt source of this machine has a suite of {OWN_SUITE}: the base is made from its mirror")
    return "\n".join(source.to_deb822() for source in found)


def _renamed(source: Source) -> Iterator[str]:
    wanted = (OWN_SUITE, f"{OWN_SUITE}-updates", f"{OWN_SUITE}-security")
    return (suite.replace(OWN_SUITE, SUITE) for suite in source.words("suites") if suite in wanted)


def _apt_options() -> Iterator[str]:
    """How this machine reaches its mirror (a proxy, a clock of its own): the base's apt has to know it too."""
    dump = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True, timeout=60)
    for line in dump.stdout.splitlines():
        name, _, value = line.partition(" ")
        if name.startswith(("Acquire::http", "Acquire::https", "Acquire::Check")) and value != '"";':
            yield f"--aptopt={line}"


def run(words: list[str], *, timeout: float, text: str = "", directory: Path | None = None) -> str:
    """A program's stdout. BuildError when it fails or takes longer."""
    try:
        done = subprocess.run(
            words,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=directory,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        raise BuildError(f"{words[0]}: {error}") from None
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-30:])
        raise BuildError(f"{' '.join(words)} failed with {done.returncode}:\n{said}")
    return done.stdout
