"""What the scripts of ``script`` print: whole or not, refused or not, and what it says."""

import re
from collections.abc import Mapping

from rds_csi.arrays.routeros.commands import Outcome
from rds_csi.arrays.routeros.errors import GarbageReply, LostReply, NotPermitted, Refused
from rds_csi.arrays.routeros.records import DeviceFacts
from rds_csi.arrays.routeros.replies import parse_disks, parse_files, parse_json, parse_version
from rds_csi.arrays.routeros.script import DISKS, DONE, END, ERROR, FILES, UNREAD
from rds_csi.errors import Internal

# What RouterOS's console begins with when it does not understand a line; then it has run nothing of it (facts, 2.1).
_SYNTAX = re.compile(
    r"(syntax error|bad command name|bad parameter|expected |missing (closing|value)|input does not match|"
    r"invalid value|ambiguous value|unknown parameter|no such command|max line length)",
    re.IGNORECASE,
)
_FORBIDDEN = re.compile(r"not enough permissions|not allowed \(9\)", re.IGNORECASE)
_JOB = re.compile(r"\*[0-9A-Fa-f]+")
# Characters of RouterOS's words that an error of ours repeats.
_SHOWN = 200


class NotUnderstood(Internal):
    """The console did not understand the script, and has run nothing of it: an older RouterOS, or our mistake."""


def refusal(text: str) -> Refused:
    """RouterOS's no, as an error; NotPermitted when a policy is missing."""
    words = text.strip()[:_SHOWN]
    if _FORBIDDEN.search(words):
        return NotPermitted(
            f"the array does not permit it: {words}",
            text=words,
            remedy="The user's group needs the policies read and write, and ssh or (for REST) api and rest-api.",
        )
    return Refused(f"the array refused it: {words}", text=words)


def whole_lines(reply: str, nonce: str) -> list[str]:
    """The lines of a whole reply without its last one; LostReply for one that ends before, NotUnderstood when it is
    RouterOS's complaint about the script itself."""
    lines = [line.rstrip() for line in reply.strip().splitlines()]
    if lines and lines[-1] == f"{END} {nonce}":
        return lines[:-1]
    if lines and _SYNTAX.match(lines[0]):
        raise NotUnderstood(f"the array's console does not understand a command of the driver: {lines[0][:_SHOWN]}")
    if lines and _FORBIDDEN.search(lines[0]):
        raise refusal(lines[0])
    shown = f"; its last line: {lines[-1][-_SHOWN:]!r}" if lines else ""
    raise LostReply(f"the array's reply ended before its end{shown}")


def read_outcome(reply: str, nonce: str) -> Outcome:
    """The outcome of a command. Refused when looking was refused, so nothing was done; LostReply when it may have been
    done and the reply does not say what is there now."""
    lines = whole_lines(reply, nonce)
    try:
        return _outcome("\n".join(lines))
    except GarbageReply as error:
        raise LostReply(f"the array's reply to a command cannot be read: {error}") from None


_OUTCOME = re.compile(
    rf"{DONE} ?(?P<done>[0-9]*)\n"
    rf"(?:{ERROR} (?P<error>.*)\n)?"
    rf"{DISKS}\n"
    rf"(?:(?P<disks>[^\n]*)\n{FILES}\n(?P<files>[^\n]*)|(?:.*\n)?{UNREAD} ?(?P<unread>.*))",
    re.DOTALL,
)


def _outcome(text: str) -> Outcome:
    found = _OUTCOME.fullmatch(text)
    if found is None:
        raise GarbageReply(f"unknown lines, the first {text[:80]!r}")
    error = (found["error"] or "").strip()
    if error and not found["done"]:
        # Looking failed: no deed was begun.
        raise refusal(error)
    if found["unread"] is not None:
        raise GarbageReply(f"reading back was refused: {found['unread'][:_SHOWN]}")
    return Outcome(
        done=int(found["done"] or -1),
        error=error,
        disks=parse_disks(parse_json(found["disks"])),
        files=parse_files(parse_json(found["files"])),
    )


def read_look(reply: str, nonce: str) -> object:
    """The JSON value that a look printed; Refused in RouterOS's words."""
    text = _told(reply, nonce)
    return parse_json(text)


def read_job(reply: str, nonce: str) -> str:
    """The id of the job that was started."""
    text = _told(reply, nonce)
    if not _JOB.fullmatch(text):
        raise LostReply(f"the array told no id of the job that it was to start: {text[:_SHOWN]!r}")
    # In the spelling in which the list of the running jobs is read.
    return text.upper()


def _told(reply: str, nonce: str) -> str:
    text = "\n".join(whole_lines(reply, nonce)).strip()
    if text.startswith(f"{ERROR} "):
        raise refusal(text.removeprefix(f"{ERROR} "))
    return text


def read_facts(reply: str, nonce: str, user: str) -> DeviceFacts:
    """The facts that ``facts_script`` printed."""
    lines = [line.partition(" ") for line in whole_lines(reply, nonce)]
    told: Mapping[str, str] = {word: value.strip() for word, _, value in lines}
    packages = [value.split() for word, _, value in lines if word == "package"]
    return DeviceFacts(
        version=parse_version(told.get("version", "")),
        board=told.get("board", ""),
        architecture=told.get("architecture", ""),
        packages=frozenset(name for name, *flags in packages if not {"true", "yes"} & set(flags)),
        user=user,
        policies=granted(told.get("policies", "")),
    )


def granted(policies: str) -> frozenset[str]:
    """The policies that a group has, of a text that lists those it has not with a ``!``."""
    return frozenset(word for word in re.split(r"[;,\s]+", policies) if word and not word.startswith("!"))
