"""What the simulated console refuses, with RouterOS's words, and that a refused line was not even begun."""

from pathlib import Path

import pytest

from rds_csi.simulator.console import Console
from rds_csi.simulator.device import Device
from rds_csi.simulator.device_options import DeviceOptions


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(DeviceOptions(directory=tmp_path, seed_tenants=False))


async def said(device: Device, line: str) -> str:
    user = device.user("admin")
    assert user is not None
    return "".join([piece async for piece in Console(device, user).run(line)]).removesuffix("\r\n")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("foo", "bad command name foo (line 1 column 1)"),
        (":foo", "bad command name foo (line 1 column 2)"),
        ("/foo print", "bad command name foo (line 1 column 2)"),
        ("/disk foo", "bad command name foo (line 1 column 7)"),
        ("/disk/foo/add", "bad command name foo (line 1 column 7)"),
        ("/disk add typ=file", "expected end of command (line 1 column 11)"),
        ("/disk add type=file type=file", "expected end of command (line 1 column 21)"),
        ("/disk add junk", "expected end of command (line 1 column 11)"),
        ("/disk print junk", "expected end of command (line 1 column 13)"),
        ("/disk print where color=red", "expected end of command (line 1 column 19)"),
        ("/disk find slot=a slott=b", "expected end of command (line 1 column 19)"),
        ("/disk add slot=x", "missing value(s) of argument(s) type"),
        ("/disk set slot=x", "missing value(s) of argument(s) numbers"),
        ("/disk remove", "missing value(s) of argument(s) numbers"),
        ("/disk get", "missing value(s) of argument(s) number"),
        (":put", "missing value(s) of argument(s) message"),
        (":put 1 2", "expected end of command (line 1 column 8)"),
        (':put a"b', "expected end of command (line 1 column 7)"),
        ("/disk add type=fiel slot=x", "input does not match any value of type"),
        ("/disk print proplist=slot,colour", "input does not match any value of proplist"),
        ("/disk get raid10 colour", "input does not match any value of value-name"),
        ("/disk remove nothing-like-that", "no such item"),
        ("/disk remove *FFFF", "no such item"),
        ("/disk remove *xyz", "invalid internal item number"),
        ("/disk remove 0", "no such item"),
        ("/disk get [find] slot", "invalid internal item number"),
        (':put "open', "expected closing quote (line 1 column 6)"),
        (":if (1=1) do={:put a", "expected closing brace (line 1 column 14)"),
        (":put [:len a", "expected closing bracket (line 1 column 6)"),
        (":put (1+2", "expected closing parenthesis (line 1 column 10)"),
        (":put (1+)", "syntax error (line 1 column 9)"),
        (':put "\\q"', "syntax error (line 1 column 7)"),
        (':put "\\c3"', "syntax error (line 1 column 7)"),
        (":put )", "syntax error (line 1 column 6)"),
        (":set never 1", "syntax error (line 1 column 6)"),
        ("}", "expected command name (line 1 column 1)"),
        ("# a comment", "expected command name (line 1 column 1)"),
        (":put 1\n:put 2", "syntax error (line 1 column 7)"),
        (":put (1/0)", "division by zero"),
        (':put ("a"+1)', "cannot add str and num"),
        (':put ("a"~"[")', "invalid regular expression"),
        (f':put "{"x" * 65535}"', "max line length 65535 exceeded!"),
    ],
)
async def test_refused_in_the_words_of_routeros(device: Device, line: str, words: str) -> None:
    assert await said(device, line) == words


@pytest.mark.parametrize("value", ["a=b", "a'b", "a(b", "a$b", "a[b", "a{b", "a`b", "a?b", 'a"b', ""])
async def test_a_value_without_quotes_refuses_what_needs_them(device: Device, value: str) -> None:
    words = await said(device, f"/disk add type=file slot={value} file-path=raid10/x file-size=1048576")
    assert "(line 1 column " in words
    assert await said(device, ":put [:len [/disk find type=file]]") == "0"


@pytest.mark.parametrize(
    "junk", [":foo", "/disk add bad=1", ":if (1=1) do={/foo}", ":do {:bar} on-error={}", '"', "{", ":onerror e in={"]
)
async def test_nothing_of_a_line_that_does_not_parse_is_done(device: Device, junk: str) -> None:
    await said(device, f":put before; /file add name=raid10/made type=directory; {junk}")
    assert await said(device, ":put [:len [/file find name=raid10/made]]") == "0"


async def test_commands_before_an_error_stay_done(device: Device) -> None:
    words = await said(device, "/file add name=raid10/made type=directory; /disk remove nope; :put after")
    assert words == "no such item"
    assert await said(device, ":put [:len [/file find name=raid10/made]]") == "1"


async def test_an_empty_line_prints_nothing(device: Device) -> None:
    assert await said(device, "") == ""
    assert await said(device, " ; ;\r\n") == ""


@pytest.mark.parametrize(
    ("version", "line", "known"),
    [
        ("7.15", "/disk add type=file slot=x file-path=raid10/x file-size=1048576", False),
        ("7.17", "/disk add type=file slot=x file-path=raid10/x file-size=1048576", True),
        ("7.17", '/disk set [find slot=x] nvme-tcp-server-nqn="nqn.2000-02.com.mikrotik:x"', False),
        ("7.21", '/disk set [find slot=x] nvme-tcp-server-nqn="nqn.2000-02.com.mikrotik:x"', True),
        ("7.21", "/file copy [find name=x] name=raid10/y", False),
        ("7.24", "/file copy [find name=x] name=raid10/y", True),
    ],
)
async def test_arguments_and_commands_follow_the_version(tmp_path: Path, version: str, line: str, known: bool) -> None:
    device = Device(DeviceOptions(directory=tmp_path, version=version, seed_tenants=False))
    words = await said(device, line)
    assert (words == "") is known, words
    if not known:
        assert words.startswith(("expected end of command (line 1", "bad command name copy (line 1"))
