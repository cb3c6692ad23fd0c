"""The chart's README: its table of values is made from values.yaml, whose comments describe each value once.

Our own few lines instead of helm-docs: that wants markers in the comments, is one more program to build, and does not
tell a value without a description.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.chart.helm import CHART

README = CHART / "README.md"
MARK = "<!-- Made from values.yaml by `nox -s chart -- --write`; never edited. -->"

_KEY = re.compile(r"( *)([A-Za-z0-9_]+):")
_COMMENT = re.compile(r"( *)# ?(.*)")


@dataclass(frozen=True, slots=True)
class Value:
    """A value that an administrator may set: its path, its description and its default."""

    path: tuple[str, ...]
    description: str
    default: object

    @property
    def name(self) -> str:
        """``controller.replicas``."""
        return ".".join(self.path)


def read_values(file: Path = CHART / "values.yaml") -> list[Value]:
    """Every described value of values.yaml, in its order. What lies below one is part of its default."""
    text = file.read_text()
    defaults = yaml.safe_load(text)
    return [Value(path, description, _at(defaults, path)) for path, description in _described(text.splitlines())]


def table(values: Sequence[Value]) -> str:
    """The values as a Markdown table."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for value in values:
        default = json.dumps(value.default, ensure_ascii=False).replace("|", "\\|")
        lines.append(f"| `{value.name}` | `{default}` | {value.description.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def made() -> str:
    """The README as it must be: what a person wrote before the mark, and the table after it."""
    written, mark, _ = README.read_text().partition(MARK)
    assert mark, f"{README} has lost its mark: {MARK}"
    return f"{written}{MARK}\n\n{table(read_values())}\n"


def _described(lines: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    # Below a described value: deeper lines are its default.
    inside: int | None = None
    for line in lines:
        found = _COMMENT.fullmatch(line)
        if found is not None:
            comment.append(found[2])
            continue
        key = _KEY.match(line)
        if key is not None and (inside is None or len(key[1]) <= inside):
            path = [item for item in path if item[0] < len(key[1])]
            path.append((len(key[1]), key[2]))
            inside = len(key[1]) if comment else None
            if comment:
                yield tuple(name for _, name in path), " ".join(comment)
        comment = []


def _at(values: object, path: Sequence[str]) -> object:
    for key in path:
        assert isinstance(values, dict)
        values = values[key]
    return values
