"""Unit tests: no root, no sleeping, no patching; everything from outside is injected."""

import logging
import signal
from collections.abc import Iterator

import pytest

from rds_csi.logging import ROOT


@pytest.fixture(scope="session", autouse=True)
def signals() -> None:
    """Signals that whoever started the tests has ignored (nohup, a job in the background) are heard by what is tested,
    and a hangup still does not end the tests."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda *_: None)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def log_levels() -> Iterator[None]:
    """Commands set up the process's logging: the next test finds it as this one did."""
    loggers = (logging.getLogger(), logging.getLogger(ROOT))
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        for handler in [item for item in logger.handlers if item not in handlers]:
            logger.removeHandler(handler)
            handler.close()
