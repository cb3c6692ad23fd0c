"""The pages: their text, their fenced blocks, and the command lines in their sentences and tables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md"))
)

# A fenced block, also one in a list; or what an administrator would type, in a sentence or a table.
_PART = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$"
    r"|`(?P<inline>(?:helm|kubectl|modprobe|rm) [^`\n]+)`",
    re.MULTILINE | re.DOTALL,
)
# The language of a part that is no block.
INLINE = "inline"


def read(page: str) -> str:
    """The text of a page, named by its path in the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a page: where its first line is, the last heading above it without its ``#``, its language or INLINE,
    its text, and the text between it and the part before."""

    page: str
    line: int
    heading: str
    language: str
    text: str
    before: str = ""

    @property
    def is_values(self) -> bool:
        """Whether it is a file of values for the chart, and no manifest."""
        return self.text.startswith("# values\n")

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def parts(page: str, text: str) -> Iterator[Block]:
    """Every part of a page with this text, in their order; a block in a list is moved to the left."""
    end, heading = 0, ""
    for match in _PART.finditer(text):
        before = text[end : match.start()]
        heading = (re.findall(r"^#+ (.*)$", before, re.MULTILINE) or [heading])[-1]
        end = match.end()
        line = text.count("\n", 0, match.start()) + 1
        if match["inline"]:
            yield Block(page, line, heading, INLINE, match["inline"], before)
        else:
            body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
            yield Block(page, line, heading, match["language"], body, before)
