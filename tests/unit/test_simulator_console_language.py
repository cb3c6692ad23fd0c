"""The scripting language of the simulated console: values, variables, flow, errors that are caught."""

import asyncio
import json
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from rds_csi.simulator.console import Console
from rds_csi.simulator.device import Device
from rds_csi.simulator.device_options import DeviceOptions
from rds_csi.simulator.menu import Menu
from rds_csi.simulator.menus.users import User
from rds_csi.simulator.versions import Version, parse_version

SOMEBODY = User("somebody", "full", frozenset({"read", "write"}))


class Nowhere:
    """A device without menus: what is left is the language."""

    def __init__(self, version: str = "7.24") -> None:
        self.version: Version = parse_version(version)
        self.menus: Mapping[str, Menu] = {}
        self.jobs: list[tuple[str, str]] = []
        self.running: list[asyncio.Task[object]] = []

    def authorize(self, user: User, menu: Menu, command: str) -> None:
        raise AssertionError("there is no menu")

    def require(self, user: User, policies: frozenset[str]) -> None:
        return None

    def start_job(self, work: Coroutine[Any, Any, object], *, owner: str, script: str = "") -> str:
        self.jobs.append((owner, script))
        self.running.append(asyncio.create_task(work))
        return f"*{len(self.jobs):X}"


async def said(line: str, version: str = "7.24") -> list[str]:
    console = Console(Nowhere(version), SOMEBODY)
    text = "".join([piece async for piece in console.run(line)])
    assert text == "" or text.endswith("\r\n")
    return text.split("\r\n")[:-1]


@pytest.mark.parametrize(
    ("expression", "printed"),
    [
        ("5", "5"),
        ("0x1F", "31"),
        ("abc", "abc"),
        ('""', ""),
        ("true", "true"),
        ("yes", "yes"),
        ("(1+2*3)", "7"),
        ("((1+2)*3)", "9"),
        ("(7/2)", "3"),
        ("(-7/2)", "-3"),
        ("(7%4)", "3"),
        ("(1<<4)", "16"),
        ("(6&3)", "2"),
        ("(6|1)", "7"),
        ("(6^3)", "5"),
        ("(~0)", "-1"),
        ("(9223372036854775807+1)", "-9223372036854775808"),
        ("(1=1)", "true"),
        ('("1"=1)', "false"),
        ('("a"="a" && 2>1)', "true"),
        ("(1>2 || 2>=2)", "true"),
        ("(1!=2 and !(1=2))", "true"),
        ('("abc"~"^a.c\\$")', "true"),
        ('("a" . 1 . "b")', "a1b"),
        ('("a","b","c")', "a;b;c"),
        ("{1;2;3}", "1;2;3"),
        ("{a=1;b={2;3}}", "a=1;b=2;3"),
        ("({1;2;3}->1)", "2"),
        ('({a=1;b=2}->"b")', "2"),
        ("({1;2}->7)", ""),
        ("(2 in {1;2})", "true"),
        ("[:len abc]", "3"),
        ("[:len {1;2;3}]", "3"),
        ('[:len "\\C3\\A9"]', "2"),
        ("[:typeof 1]", "num"),
        ("[:typeof a]", "str"),
        ("[:typeof true]", "bool"),
        ("[:typeof *2B]", "id"),
        ("[:typeof 5s]", "time"),
        ("[:typeof {1}]", "array"),
        ("[:typeof [:nothing]]", "nothing"),
        ('[:typeof [:find "abc" "x"]]', "nil"),
        ('[:find "abcabc" "c"]', "2"),
        ('[:find "abcabc" "c" 2]', "5"),
        ("[:find {1;2;3} 3]", "2"),
        ('[:pick "abcdef" 1 3]', "bc"),
        ('[:pick "abcdef" 2]', "c"),
        ('[:pick "abc" 0 9]', "abc"),
        ("[:pick {1;2;3} 1]", "2"),
        ("[:tonum 12]", "12"),
        ("[:tonum abc]", ""),
        ("[:tostr {1;2}]", "1;2"),
        ('[:len [:toarray "a,b"]]', "2"),
        ("1d2h3m4s", "1d02:03:04"),
        ("[:totime 90]", "00:01:30"),
    ],
)
async def test_put_prints_the_value(expression: str, printed: str) -> None:
    assert await said(f":put {expression}") == [printed]


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        (r"a\"b", 'a"b'),
        (r"a\\b", "a\\b"),
        (r"\$x", "$x"),
        (r"what\?", "what?"),
        (r"a\_b", "a b"),
        (r"\t", "\t"),
        (r"\41\42", "AB"),
        (r"\C3\A9", "é"),
        ("^x$", "^x$"),
        ("$$", "$$"),
    ],
)
async def test_strings_have_the_escapes_of_routeros(literal: str, text: str) -> None:
    assert await said(f':put "{literal}"') == [text]


async def test_line_ends_in_a_string_are_printed_as_crlf() -> None:
    assert await said(r':put "a\nb\r\nc"') == ["a", "b", "c"]


async def test_variables_expand_in_strings_and_outside() -> None:
    assert await said(':local x 5; :put "$x $(1+$x) $[:len $x]-$x"; :put $x') == ["5 6 1-5", "5"]


async def test_an_inner_variable_hides_the_outer_one() -> None:
    assert await said(":local x 1; {:local x 2; :put $x}; :put $x") == ["2", "1"]


async def test_a_block_can_set_a_variable_of_outside() -> None:
    assert await said(":local x 1; {:set x 2}; :put $x") == ["2"]


async def test_an_element_of_an_array_can_be_set() -> None:
    assert await said(':local a {1;2}; :set ($a->0) 9; :put $a; :set ($a->"k") 5; :put $a') == ["9;2", "0=9;1=2;k=5"]


async def test_arrays_are_values_not_references() -> None:
    assert await said(":local a {1;2}; :local b $a; :set ($b->0) 9; :put $a") == ["1;2"]


async def test_globals_last_as_long_as_the_session() -> None:
    console = Console(Nowhere(), SOMEBODY)
    assert await console.execute(":global g 5") == ""
    assert await console.execute(":put $g") == ""
    assert await console.execute(":global g; :put $g") == "5"


async def test_if_takes_its_branch() -> None:
    assert await said(":if (1=1) do={:put a} else={:put b}; :if (1=2) do={:put c} else={:put d}") == ["a", "d"]


async def test_a_condition_that_is_no_boolean_is_refused() -> None:
    assert await said(":if (5) do={:put a}") == ["conditional not boolean"]


async def test_loops() -> None:
    assert await said(":for i from=1 to=3 do={:put $i}") == ["1", "2", "3"]
    assert await said(":for i from=3 to=1 step=-2 do={:put $i}") == ["3", "1"]
    assert await said(':foreach i in=("a","b") do={:put $i}') == ["a", "b"]
    assert await said(':foreach k,v in={a=1;b=2} do={:put "$k-$v"}') == ["a-1", "b-2"]
    assert await said(":local i 0; :while ($i<2) do={:set i ($i+1); :put $i}") == ["1", "2"]
    assert await said(":local i 0; :do {:set i ($i+1)} while=($i<5); :put $i") == ["5"]


async def test_functions_return_values_and_see_only_their_arguments() -> None:
    line = ':local y 1; :local f do={:return ("$1$x$y" . "!")}; :put [$f a x=b]'
    assert await said(line) == ["ab!"]


async def test_return_ends_the_script() -> None:
    assert await said(":put a; :return 5; :put b") == ["a"]


async def test_an_error_ends_the_script_and_leaves_what_was_printed() -> None:
    assert await said(':put before; :error "no good"; :put after') == ["before", "no good"]


async def test_errors_are_caught_with_or_without_their_text() -> None:
    assert await said(':do {:put a; :error "x"; :put b} on-error={:put caught}') == ["a", "caught"]
    assert await said(':onerror e in={:error "x"} do={:put "caught $e"}') == ["caught x"]
    assert await said(":onerror e in={:put fine} do={:put never}") == ["fine"]


async def test_onerror_and_serialize_came_with_7_13() -> None:
    assert await said(":onerror e in={} do={}", "7.12") == ["bad command name onerror (line 1 column 2)"]
    assert await said(":put [:serialize to=json value=1]", "7.12") == ["bad command name serialize (line 1 column 8)"]


async def test_serialize_keeps_strings_only_with_the_option_of_7_17() -> None:
    value = 'value={a="12";b=13;c=true;d={"x"};e="1.5"}'
    assert await said(f":put [:serialize to=json options=json.no-string-conversion {value}]") == [
        '{"a":"12","b":13,"c":true,"d":["x"],"e":"1.5"}'
    ]
    assert await said(f":put [:serialize to=json {value}]", "7.15") == [
        '{"a":12.000000,"b":13,"c":true,"d":["x"],"e":1.500000}'
    ]
    assert await said(f":put [:serialize to=json options=json.no-string-conversion {value}]", "7.15") == [
        "input does not match any value of options"
    ]


async def test_pretty_json_is_the_same_json() -> None:
    lines = await said(":put [:serialize to=json options=json.pretty value={a=1;b={2;3}}]")
    assert len(lines) > 1
    assert json.loads("\n".join(lines)) == {"a": 1, "b": [2, 3]}


async def test_execute_starts_a_job_and_gives_its_id() -> None:
    device = Nowhere()
    console = Console(device, SOMEBODY)
    assert await console.execute(':put [:execute script={:put inside}]; /execute script=":put 1"') == "*1"
    assert device.jobs == [("somebody", ":put inside"), ("somebody", ":put 1")]
    await asyncio.gather(*device.running)


async def test_execute_as_string_waits_for_the_output() -> None:
    assert await said(":put [:execute script={:put 1; :put 2} as-string]") == ["1", "2"]


async def test_execute_tells_the_place_of_an_error() -> None:
    console = Console(Nowhere(), SOMEBODY)
    assert await console.execute(":put a\n:error b") == "a\r\nb (:error; line 2)"
    assert await console.execute(":put a\n:foo") == "bad command name foo (line 2 column 2)"


async def test_delay_waits_on_the_given_clock() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    console = Console(Nowhere(), SOMEBODY, sleep=sleep)
    await console.execute(":delay 2; :delay 1500ms; :delay; :delay 00:01:00")
    assert waits == [2, 1.5, 1, 60]


async def test_time_measures_a_block() -> None:
    ticks = iter(range(1000))
    console = Console(Nowhere(), SOMEBODY, now=lambda: next(ticks))
    assert (await console.execute(":put [:time {:nothing}]")).startswith("00:00:0")


async def test_a_script_is_cancelled_between_two_steps(tmp_path: Path) -> None:
    device = Device(DeviceOptions(directory=tmp_path))
    user = device.user("admin")
    assert user is not None
    pieces = Console(device, user).run(":local i 0; :while (true) do={:set i ($i+1); :put $i}")
    assert await anext(pieces) == "1\r\n"
    await pieces.aclose()
    assert len(asyncio.all_tasks()) == 1
    await device.close()


async def test_an_endless_loop_ends_and_nothing_catches_that() -> None:
    console = Console(Nowhere(), SOMEBODY, max_steps=5000)
    assert await console.execute(":do {:while (true) do={}} on-error={:put caught}; :put after") == "interrupted"


async def test_a_string_or_array_that_doubles_without_end_is_refused() -> None:
    assert await said(':local s "x"; :while (true) do={:set s ($s . $s)}') == ["failure: not enough memory"]
    assert await said(":local a {1}; :while (true) do={:set a {$a;$a}}") == ["failure: not enough memory"]


async def test_recursion_ends() -> None:
    assert await said(":global f do={:global f; $f}; $f") == ["maximum stack depth reached"]
