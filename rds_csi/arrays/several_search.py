"""Where among several arrays something is: asked of all at once, and never "absent" while one of them is away."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Generic, TypeVar

from rds_csi.arrays.protocol import Array, NotOurs
from rds_csi.arrays.several_places import Siblings
from rds_csi.errors import (
    Aborted,
    DeadlineExceeded,
    DriverError,
    FailedPrecondition,
    NotFound,
    Unavailable,
    Unimplemented,
)

T = TypeVar("T")

# Ids, some 10 MB. What was forgotten is looked for in all arrays.
REMEMBERED = 20_000
# Seconds that arrays which have not answered yet still get, once one has what is looked for.
PATIENCE = 2.0


class Kind(Enum):
    """What is looked for; each kind has ids of its own."""

    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    GROUP = "group snapshot"


class Answers(Generic[T]):
    """What arrays answered to one question, by array name."""

    def __init__(self, siblings: Siblings | None = None) -> None:
        self.values: dict[str, T] = {}
        self.errors: dict[str, DriverError] = {}
        self._siblings = siblings or {}

    @property
    def failures(self) -> Mapping[str, DriverError]:
        """The errors that leave the answer open."""
        return {name: error for name, error in self.errors.items() if not self._is_absent(name, error)}

    def _is_absent(self, name: str, error: DriverError) -> bool:
        # What another of the arrays has on the same device is in the way there, and told by that one.
        of_sibling = isinstance(error, NotOurs) and error.owner in self._siblings.get(name, ())
        return of_sibling or is_absent(error)


def is_absent(error: DriverError) -> bool:
    """Whether the array knows that it has no such thing; one that cannot have any has none."""
    return isinstance(error, NotFound | Unimplemented)


async def ask(
    arrays: Mapping[str, Array], question: Callable[[Array], Awaitable[T]], *, siblings: Siblings | None = None
) -> Answers[T]:
    """Ask all at once, and wait for all of them."""
    return await _ask(arrays, question, None, siblings)


async def _ask(
    arrays: Mapping[str, Array],
    question: Callable[[Array], Awaitable[T]],
    patience: float | None,
    siblings: Siblings | None = None,
) -> Answers[T]:
    """``patience``: seconds that the others get once one has answered; None for all the time they need."""
    answers: Answers[T] = Answers(siblings)

    async def ask_one(name: str, array: Array) -> None:
        try:
            answers.values[name] = await question(array)
        except DriverError as error:
            answers.errors[name] = error

    tasks = {asyncio.create_task(ask_one(name, array)): name for name, array in arrays.items()}
    try:
        await _settle(set(tasks), answers, patience)
    finally:
        late = [task for task in tasks if not task.done()]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    for task, name in tasks.items():
        if task.cancelled():
            answers.errors[name] = DeadlineExceeded("it has not answered yet")
        else:
            # Anything but a DriverError is a defect, and told as one.
            task.result()
    return answers


async def _settle(pending: set["asyncio.Task[None]"], answers: Answers[T], patience: float | None) -> None:
    while pending:
        found = patience is not None and bool(answers.values)
        done, pending = await asyncio.wait(
            pending, timeout=patience if found else None, return_when=asyncio.FIRST_COMPLETED
        )
        if found and not done:
            return


class Search:
    """Finds things, first where they were seen last. That is only a hint: who is wrong about it asks all."""

    def __init__(
        self,
        arrays: Mapping[str, Array],
        *,
        patience: float = PATIENCE,
        remembered: int = REMEMBERED,
        siblings: Siblings | None = None,
    ) -> None:
        self._arrays = arrays
        self._patience = patience
        self._limit = remembered
        self._siblings = siblings
        self._seen: OrderedDict[tuple[Kind, str], str] = OrderedDict()

    def note(self, kind: Kind, object_id: str, name: str) -> None:
        """It was seen in that array."""
        self._seen[kind, object_id] = name
        self._seen.move_to_end((kind, object_id))
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)

    def forget(self, kind: Kind, object_id: str) -> None:
        """It is no longer where it was."""
        self._seen.pop((kind, object_id), None)

    def last_seen(self, kind: Kind, object_id: str) -> str:
        """The array where it was seen last, or ""."""
        return self._seen.get((kind, object_id), "")

    async def find(self, kind: Kind, object_id: str, look: Callable[[Array], Awaitable[T]]) -> tuple[str, T]:
        """The array that has it, and what ``look`` brought of it.

        NotFound only when every array knows that it has none; while one cannot be asked, Unavailable naming it.
        FailedPrecondition when two have it.
        """
        hint = self.last_seen(kind, object_id)
        first: Answers[T] = Answers()
        if hint:
            first = await ask({hint: self._arrays[hint]}, look)
            if hint in first.values:
                return hint, first.values[hint]
        others = {name: array for name, array in self._arrays.items() if name != hint}
        answers = await _ask(others, look, self._patience, self._siblings)
        answers.errors.update(first.errors)
        found = self._only_one(kind, object_id, answers)
        if found is None:
            raise _missing(kind, object_id, answers)
        return found

    async def find_elsewhere(
        self, kind: Kind, object_id: str, look: Callable[[Array], Awaitable[T]], besides: Collection[str]
    ) -> tuple[str, T] | None:
        """Like ``find`` in all other arrays; None when none of those that answer in good time has it."""
        others = {name: array for name, array in self._arrays.items() if name not in besides}

        async def look_in_time(array: Array) -> T:
            try:
                async with asyncio.timeout(self._patience):
                    return await look(array)
            except TimeoutError:
                raise DeadlineExceeded("it has not answered yet") from None

        return self._only_one(kind, object_id, await ask(others, look_in_time))

    def _only_one(self, kind: Kind, object_id: str, answers: Answers[T]) -> tuple[str, T] | None:
        if len(answers.values) > 1:
            self.forget(kind, object_id)
            raise twice(kind, object_id, sorted(answers.values))
        for name, value in answers.values.items():
            self.note(kind, object_id, name)
            return name, value
        return None


def twice(kind: Kind, object_id: str, names: Collection[str]) -> FailedPrecondition:
    """The error for an id that several arrays have."""
    return FailedPrecondition(
        f"{kind.value} {object_id} is in the arrays {' and '.join(names)}",
        remedy="Find out which one holds the data, and take the other one out of the driver's hands.",
    )


def _missing(kind: Kind, object_id: str, answers: Answers[T]) -> DriverError:
    if answers.failures:
        return combined(answers.failures, f"whether {kind.value} {object_id} exists is not known")
    return NotFound(f"there is no {kind.value} {object_id} in any of the arrays")


def combined(failures: Mapping[str, DriverError], what: str) -> DriverError:
    """One error for those of several arrays: Unavailable when all are merely away, else like one that is not."""
    name, error = next(
        ((name, error) for name, error in failures.items() if not _is_passing(error)), next(iter(failures.items()))
    )
    told = "; ".join(
        f"array {name} is away ({error.message})" for name, error in failures.items() if _is_passing(error)
    )
    if _is_passing(error):
        return Unavailable(f"{what}: {told}", remedy=error.remedy)
    return error_class(error)(f"{what}: array {name}: {error.message}{'; ' if told else ''}{told}", remedy=error.remedy)


def complete(answers: Answers[Sequence[T]], what: str) -> Mapping[str, Sequence[T]]:
    """What all answered: an incomplete list would make others take volumes for gone."""
    if answers.failures:
        raise combined(answers.failures, what)
    return answers.values


def _is_passing(error: DriverError) -> bool:
    return isinstance(error, Unavailable | DeadlineExceeded | Aborted)


def error_class(error: DriverError) -> type[DriverError]:
    """The class of ``rds_csi.errors`` that it is of: those of a backend may want more than a message."""
    return next(item for item in type(error).__mro__ if item.__module__ == DriverError.__module__)
