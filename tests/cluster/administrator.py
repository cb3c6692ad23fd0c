"""An administrator who knows nothing but the pages: writes their files, and runs their command lines as they stand.

What must be different on this machine is a ``Difference``, each with its reason. They cannot drift apart from the
pages: a line that is neither run nor explained is a failure, and so is a difference that no page has any more.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.pages import INLINE, Block, parts

# What a line may begin with here. Nothing else of a page is run on this machine, whatever it says.
_PROGRAMS = ("helm", "kubectl", "nsenter")
# Far more than the slowest takes, `kubectl rollout status` (15 s).
_LINE_SECONDS = 150


@dataclass(frozen=True, slots=True)
class Difference:
    """What is in a page, and what is done here, ``because`` of what: ``here`` is taken instead of it, or, as a line, it
    ends with this ``status``, or, when neither is given, it is a line that is not run."""

    told: str
    because: str
    here: str | None = None
    status: int | None = None


class Administrator:
    """Works in ``directory`` with these environment variables. ``pages``: their texts by their names."""

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        pages: Mapping[str, str],
        differences: Sequence[Difference],
    ) -> None:
        self._directory = directory
        self._environment = dict(environment)
        self._parts = [part for page, text in pages.items() for part in parts(page, text)]
        self._told = [difference.told for difference in differences]
        self._instead = {each.told: each.here for each in differences if each.here is not None}
        self._status = {each.told: each.status for each in differences if each.status is not None}
        self._not_run = {each.told for each in differences if each.here is None and each.status is None}
        self._followed: set[str] = set()

    def follow(self, page: str, heading: str) -> list[str]:
        """Do what the page says below a heading; what each line that was run has printed. AssertionError."""
        section = [part for part in self._parts if (part.page, part.heading) == (page, heading)]
        assert section, f"there is nothing to do in {page} below {heading!r}"
        return [printed for part in section for printed in self._do(part)]

    def run(self, command: str, status: int = 0) -> str:
        """What a command line prints; AssertionError when it ends with another status. It is shown with a failure."""
        print(f"$ {command}")
        done = subprocess.run(
            # timeout(1) ends the whole pipeline.
            ["timeout", str(_LINE_SECONDS), "bash", "-o", "pipefail", "-c", command],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        print(done.stdout, end="")
        assert done.returncode == status, f"status {done.returncode} instead of {status}: {command}"
        return done.stdout

    def omissions(self) -> list[str]:
        """What was not followed, and what the differences name but no page has."""
        rest = [part for part in self._parts if str(part) not in self._followed]
        lines = [f"{part}: not followed: {line}" for part in rest for line in _lines(part)]
        files = [f"{part}: not written" for part in rest if part.language == "yaml"]
        texts = [part.text for part in self._parts]
        gone = [f"in no page: {told}" for told in self._told if not any(told in text for text in texts)]
        return lines + files + gone

    def _do(self, part: Block) -> Iterator[str]:
        self._followed.add(str(part))
        if part.language == "yaml":
            (self._directory / _file_name(part)).write_text(self._here(part.text))
        for line in _lines(part):
            if line in self._not_run:
                continue
            command = self._here(line)
            assert command.split()[0] in _PROGRAMS, f"{part}: neither run nor explained: {line}"
            yield self.run(command, self._status.get(line, 0))

    def _here(self, text: str) -> str:
        for told, here in self._instead.items():
            text = text.replace(told, here)
        return text


def _lines(part: Block) -> list[str]:
    """The command lines of a part."""
    if part.language not in ("sh", INLINE):
        return []
    return [line for line in part.text.splitlines() if line.strip() and not line.startswith("#")]


def _file_name(part: Block) -> str:
    """The name that the sentence above gives to a block."""
    names = re.findall(r"`([\w-]+\.yaml)`[^`\n]*:\n\n$", part.before)
    assert names, f"{part}: no sentence above tells the name of the file"
    return str(names[-1])
