"""Copies chosen Debian packages, with all that they depend on, from the running system into an empty root directory.

``python3 rootfs.py packages.toml /rootfs``. Only files that dpkg knows are copied: what installation scripts wrote (the
host identity of nvme-cli, the machine id) stays behind. /var/lib/dpkg keeps what tools read that look for
packages. Standard library only, root, and a merged /usr, as Debian has it from 12 on.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

DPKG = Path("/var/lib/dpkg")
# Who runs the controller: nobody's number, and the same in every image.
USER = 65532
# Where a container without mounts has its socket and its volumes.
HOMES = ("csi", "var/lib/rds-csi")
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    f"rds-csi:x:{USER}:{USER}:rds-csi:/var/lib/rds-csi:/usr/sbin/nologin\n",
    "etc/group": f"root:x:0:\nrds-csi:x:{USER}:\n",
    # Without it the C library asks DNS before /etc/hosts.
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
SET_IDS = stat.S_ISUID | stat.S_ISGID
# Of a package's files below info/: what says which files it has.
INFO = ("list", "md5sums")


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package: its stanza of dpkg's status file, and the names of what it needs."""

    name: str
    stanza: str
    provides: tuple[str, ...]
    depends: tuple[tuple[str, ...], ...]
    """One tuple of alternatives for each."""


def main(packages: str, target: str) -> None:
    """Fill ``target``. SystemExit when a wanted package is missing, or one left out is not known any more."""
    chosen = tomllib.loads(Path(packages).read_text(encoding="utf-8"))
    kept = with_dependencies(read_status(), chosen["wanted"], chosen["left-out"])
    root = Path(target)
    root.mkdir()
    patterns = chosen["files"]["left-out"]
    for path in sorted({path for package in kept for path in files_of(package.name)}):
        if not is_left_out(path, patterns) and can_run(Path("/", path)):
            copy(path, root)
    keep_database(kept, root)
    complete(root)
    sys.stdout.write(f"{len(kept)} packages: {' '.join(package.name for package in kept)}\n")


def read_status() -> dict[str, Package]:
    """Every installed package by its name."""
    stanzas = (DPKG / "status").read_text(encoding="utf-8").strip().split("\n\n")
    return {package.name: package for package in map(parse, stanzas)}


def parse(stanza: str) -> Package:
    """deb-control(5), as far as it is needed here."""
    fields = dict(re.findall(r"^([A-Za-z-]+): *(.*)$", stanza, re.MULTILINE))
    needed = ",".join(fields[name] for name in ("Pre-Depends", "Depends") if name in fields)
    depends = tuple(tuple(map(bare, choice.split("|"))) for choice in needed.split(",") if choice.strip())
    provides = tuple(bare(name) for name in fields.get("Provides", "").split(",") if name.strip())
    return Package(fields["Package"], stanza, provides, depends)


def bare(dependency: str) -> str:
    """``libc6:any (>= 2.38)`` → ``libc6``."""
    return dependency.strip().partition(" ")[0].partition(":")[0].partition("(")[0]


def with_dependencies(
    installed: Mapping[str, Package], wanted: Iterable[str], left_out: Iterable[str]
) -> list[Package]:
    """The wanted packages and all that they need but ``left_out``, by name."""
    providers = {name: package for package in installed.values() for name in (*package.provides, package.name)}
    cut, met = set(left_out), set()
    kept: dict[str, Package] = {}
    waiting: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in wanted]
    while waiting:
        why, choices = waiting.pop()
        found = next((providers[name] for name in choices if name in providers), None)
        if found is None:
            sys.exit(f"none of {', '.join(choices)} is installed, which {why} needs")
        if found.name in cut:
            met.add(found.name)
        elif found.name not in kept:
            kept[found.name] = found
            waiting += [(found.name, choices) for choices in found.depends]
    if cut - met:
        sys.exit(f"nothing depends on what is left out: {', '.join(sorted(cut - met))}")
    return [kept[name] for name in sorted(kept)]


def info(name: str) -> Iterator[Path]:
    """The files of dpkg's database that list the package's files."""
    for kind in INFO:
        yield from (DPKG / "info").glob(f"{name}.{kind}")
        yield from (DPKG / "info").glob(f"{name}:*.{kind}")


def files_of(name: str) -> Iterator[str]:
    """Paths of a package's files, links and directories, without the leading slash, that are there."""
    lists = [path for path in info(name) if path.suffix == ".list"]
    for line in lists[0].read_text(encoding="utf-8").splitlines():
        path = line.strip("/.")
        if path and os.path.lexists(line):
            # Aliases of a merged /usr: /lib/x is /usr/lib/x.
            parent, name = os.path.split(os.path.normpath(line))
            yield os.path.join(os.path.realpath(parent), name).lstrip("/")


def is_left_out(path: str, patterns: Iterable[str]) -> bool:
    """Whether the image goes without it: by the patterns, and all documentation but the copyright."""
    if path.startswith("usr/share/doc/"):
        return os.path.basename(path) != "copyright"
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def can_run(path: Path) -> bool:
    """False for a script that wants a shell or another language than Python: there is none."""
    if path.is_symlink() or not path.is_file() or not os.access(path, os.X_OK):
        return True
    with path.open("rb") as stream:
        first = stream.readline(200)
    return not first.startswith(b"#!") or b"python" in first


def copy(path: str, root: Path) -> None:
    """The same file, link or directory below ``root``; without set-id bits."""
    source, target = Path("/", path), root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = source.lstat().st_mode
    if stat.S_ISDIR(mode):
        target.mkdir(exist_ok=True)
        target.chmod(stat.S_IMODE(mode) & ~SET_IDS)
    else:
        shutil.copy2(source, target, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            target.chmod(stat.S_IMODE(mode) & ~SET_IDS)


def keep_database(kept: Iterable[Package], root: Path) -> None:
    """dpkg's own record of exactly these packages."""
    directory = root / DPKG.relative_to("/")
    (directory / "info").mkdir(parents=True, exist_ok=True)
    (directory / "status").write_text("".join(f"{package.stanza}\n\n" for package in kept), encoding="utf-8")
    for package in kept:
        for path in info(package.name):
            shutil.copy(path, directory / "info")


def complete(root: Path) -> None:
    """What installation scripts would have made, and the user."""
    for path, text in FILES.items():
        (root / path).write_text(text, encoding="utf-8")
    for home in HOMES:
        (root / home).mkdir(parents=True, exist_ok=True)
        os.chown(root / home, USER, USER)
    for directory in ("dev", "etc/nvme", "proc", "run", "sys", "tmp", "var/tmp"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "etc/mtab").unlink(missing_ok=True)
    (root / "etc/mtab").symlink_to("../proc/self/mounts")
    subprocess.run(["ldconfig", "-X", "-r", str(root)], check=True)
    shutil.rmtree(root / "var/cache/ldconfig", ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
