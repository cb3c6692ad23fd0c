"""How a guest's output and exit status come out of its one stream."""

import io
import os
import time

import pytest

from tests.vm.machine import TIMED_OUT, _relay

DEADLINE_SECONDS = 10.0


def relayed(*pieces: bytes, seconds: float = DEADLINE_SECONDS, end: bool = True) -> tuple[int | None, bytes]:
    reader, writer = os.pipe()
    output = io.BytesIO()
    try:
        os.write(writer, b"".join(pieces))
        if end:
            os.close(writer)
        return _relay(reader, output, time.monotonic() + seconds), output.getvalue()
    finally:
        os.close(reader)
        if not end:
            os.close(writer)


@pytest.mark.parametrize("status", [0, 7, 255])
def test_the_trailer_is_the_exit_status_and_no_output(status: int) -> None:
    assert relayed(b"hello\n", b"\x00vm-exit %d\n" % status) == (status, b"hello\n")


def test_what_a_left_child_prints_behind_the_trailer_is_dropped() -> None:
    assert relayed(b"a\x00vm-exit 3\n", b"late\n") == (3, b"a")


def test_zero_bytes_in_the_output_are_output() -> None:
    assert relayed(b"a\x00b\x00", b"\x00vm-exit 0\n") == (0, b"a\x00b\x00")


def test_a_machine_that_dies_has_no_exit_status_and_loses_no_output() -> None:
    assert relayed(b"half\x00vm-ex") == (None, b"half\x00vm-ex")


def test_a_machine_that_goes_on_is_given_up_at_the_deadline() -> None:
    assert relayed(b"a\x00vm-exit ", seconds=0.05, end=False) == (TIMED_OUT, b"a")
