"""Reading characters: a position in the text, words, and strings with their escapes."""

import re
from typing import NoReturn

from rds_csi.simulator.console.errors import ParseError

_BLANKS = re.compile(r"(?:[ \t\r]|\\\r?\n)*")
_SPACE = re.compile(r"(?:[ \t\r\n]|\\\r?\n)*")
_HEX = re.compile(r"(?:\\[0-9A-F]{2})+")
_RAW = re.compile(r'[^"\\$]+')
ESCAPES = {
    '"': '"',
    "\\": "\\",
    "$": "$",
    "?": "?",
    "_": " ",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
}
# What a word without quotes may hold. The console gives everything else a meaning of its own.
UNQUOTED = re.compile(r"""[^\s"'=()$\[\]{}`;?\\]+""")
# After a value only these may follow; "" is the end of the text.
DELIMITERS = frozenset(("", " ", "\t", "\r", "\n", ";", "}", "]", ")", "\\"))


class Cursor:
    """A text and a position in it; whoever reads moves the position."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def fail(self, what: str, at: int | None = None) -> NoReturn:
        """Refuses what is here, or at ``at``."""
        raise self.refusal(what, at)

    def refusal(self, what: str, at: int | None = None) -> ParseError:
        """The refusal with line and column, both counted from 1."""
        line, column = self.place(self.position if at is None else at)
        return ParseError(f"{what} (line {line} column {column})")

    def place(self, position: int) -> tuple[int, int]:
        """Line and column of a position."""
        return self.text.count("\n", 0, position) + 1, position - self.text.rfind("\n", 0, position)

    @property
    def next(self) -> str:
        """The next character; "" at the end."""
        return self.text[self.position : self.position + 1]

    def blanks(self) -> None:
        """Skips blanks within a line."""
        found = _BLANKS.match(self.text, self.position)
        self.position = found.end() if found else self.position

    def space(self) -> None:
        """Skips blanks and line ends."""
        found = _SPACE.match(self.text, self.position)
        self.position = found.end() if found else self.position

    def take(self, pattern: re.Pattern[str]) -> str:
        """Reads what matches here; "" when nothing does."""
        found = pattern.match(self.text, self.position)
        if found is None:
            return ""
        self.position = found.end()
        return found[0]

    def accept(self, text: str) -> bool:
        """Reads exactly ``text`` if it is next."""
        if not self.text.startswith(text, self.position):
            return False
        self.position += len(text)
        return True

    def expect_delimiter(self) -> None:
        """After a value nothing may stick to it."""
        if self.next not in DELIMITERS:
            self.fail("expected end of command")

    def escape(self) -> str:
        r"""Reads one escape, or a run of ``\XX`` bytes, which are UTF-8 together."""
        run = self.take(_HEX)
        if run:
            return bytes.fromhex(run.replace("\\", "")).decode("utf-8", "replace")
        char = self.text[self.position + 1 : self.position + 2]
        if char not in ESCAPES:  # "" at the end of the text is none of them
            self.fail("syntax error")
        self.position += 2
        return ESCAPES[char]

    def raw(self) -> str:
        """Reads characters of a string that stand for themselves."""
        return self.take(_RAW)
