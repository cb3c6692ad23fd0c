"""Log lines for people and for machines."""

import io
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

import pytest

from rds_csi import logging as log_lines

Configure = Callable[..., logging.Handler]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """``configure`` whose handler and levels are undone after the test."""
    root, ours = logging.getLogger(), logging.getLogger(log_lines.ROOT)
    levels = root.level, ours.level
    made: list[logging.Handler] = []

    def make(stream: TextIO, *, level: str = "info", as_json: bool = False) -> logging.Handler:
        made.append(log_lines.configure(level=level, as_json=as_json, stream=stream))
        return made[-1]

    yield make
    for handler in made:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


LOGGER = logging.getLogger("rds_csi.test")


def test_a_line_for_people(configure: Configure) -> None:
    stream = io.StringIO()
    handler = configure(stream)
    log_lines.log(LOGGER, logging.INFO, "volume staged", volume_id="pvc-1", seconds=0.25, device="", text='a "b"\nc')
    handler.flush()
    moment, rest = stream.getvalue().split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moment)
    assert rest == (
        'INFO    rds_csi.test: volume staged volume_id=pvc-1 seconds=0.25 device="" text="a \\"b\\"\\\\nc"\n'
    )


def test_a_line_for_machines(configure: Configure) -> None:
    stream = io.StringIO()
    handler = configure(stream, as_json=True)
    token = log_lines.request_id.set("r-1")
    log_lines.log(LOGGER, logging.WARNING, "two\nlines", volume_id="pvc-1", count=2, odd=object)
    log_lines.request_id.reset(token)
    handler.flush()
    assert stream.getvalue().count("\n") == 1
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "rds_csi.test",
        "message": "two\nlines",
        "volume_id": "pvc-1",
        "count": 2,
        "odd": "<class 'object'>",
        "request_id": "r-1",
    }


def test_the_request_id_is_in_every_line_of_a_call(configure: Configure) -> None:
    stream = io.StringIO()
    handler = configure(stream)
    token = log_lines.request_id.set("r-2")
    LOGGER.warning("plain %s", "line")
    log_lines.request_id.reset(token)
    LOGGER.warning("later")
    handler.flush()
    first, second = stream.getvalue().splitlines()
    assert first.endswith("plain line request_id=r-2")
    assert second.endswith("later")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_traceback_cannot_forge_a_line(configure: Configure, as_json: bool) -> None:
    stream = io.StringIO()
    handler = configure(stream, as_json=as_json)
    try:
        raise ValueError("x\n2026-01-01T00:00:00.000Z INFO forged\x1b[31m")
    except ValueError:
        LOGGER.exception("failed")
    handler.flush()
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "ValueError" in text
    assert len([line for line in text.splitlines() if line[:1] not in (" ", "{")]) == (0 if as_json else 1)


def test_the_level_is_chosen_by_name_and_other_libraries_stay_quiet(configure: Configure) -> None:
    stream = io.StringIO()
    handler = configure(stream, level="debug")
    LOGGER.debug("seen")
    logging.getLogger("hpack.hpack").debug("header: secret")
    logging.getLogger("asyncio").warning("heard")
    handler.flush()
    assert [line.split(": ")[1] for line in stream.getvalue().splitlines()] == ["seen", "heard"]
    handler = configure(stream, level="error")
    LOGGER.warning("not seen")
    handler.flush()
    assert "not seen" not in stream.getvalue()


def test_configuring_again_replaces_and_does_not_double(configure: Configure) -> None:
    first, second = io.StringIO(), io.StringIO()
    configure(first)
    handler = configure(second)
    LOGGER.info("once")
    handler.flush()
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_a_level_that_is_off_formats_nothing(configure: Configure) -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError

    configure(io.StringIO())
    log_lines.log(LOGGER, logging.DEBUG, "quiet", value=Costly())


def test_a_reader_that_stands_still_does_not_block(configure: Configure) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as reader:
        handler = configure(stream)
        # More than a pipe holds (64 KiB), and more lines than are kept.
        for number in range(15_000):
            LOGGER.info("line %d %s", number, "x" * 50)
        lines: list[str] = []
        while not lines or "dropped" not in lines[-1]:
            lines.append(reader.readline())
        assert re.fullmatch(r"\(\d+ log lines were dropped: their reader is too slow\)\n", lines[-1])
        assert " line 0 " in lines[0]
        # Let the writer's thread end.
        threading.Thread(target=reader.read, daemon=True).start()
        handler.close()
        stream.close()


def test_a_reader_that_has_gone_is_no_error(configure: Configure) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w", buffering=1)
    handler = configure(stream)
    LOGGER.info("nobody hears")
    handler.flush()
    LOGGER.info("nobody hears")
    handler.close()
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_control_characters_are_written_as_escapes() -> None:
    assert log_lines.single_line("a\n\x00\x7f\x9b\u2028é") == "a\\n\\x00\\x7f\\x9b\\u2028é"
