"""Tasks that end when they should: steps that a cancelled caller must not cut in two (design, rule 7)."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finish(step: Coroutine[Any, Any, T]) -> T:
    """Run ``step`` to its own end even when the caller is cancelled meanwhile; then the cancellation goes on.

    The caller stays suspended until the step has ended, so that the locks which it holds stay held. For what
    changes data or the array: mkfs, growth, array writes. The step needs deadlines of its own.
    """
    task = asyncio.ensure_future(step)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:
            if not task.done():
                # The caller's coroutine is being thrown away (GeneratorExit): nobody is left to wait.
                raise
            # The step's own failure: told below, once, by task.result().
            break
    if cancelled is not None:
        if not task.cancelled():
            # Look at the failure, so that asyncio does not report it as never retrieved.
            task.exception()
        raise cancelled
    return task.result()
