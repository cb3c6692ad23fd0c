"""Unit tests: no root, no sleeping, no patching; everything from outside is injected."""

import logging
from collections.abc import Iterator

import pytest

from rds_csi.logging import ROOT


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
