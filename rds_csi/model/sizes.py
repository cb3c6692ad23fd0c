"""Sizes: integers of bytes from end to end."""

from dataclasses import dataclass

from rds_csi.errors import InvalidArgument, OutOfRange

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

# CSI carries sizes as int64 (CapacityRange in csi.proto).
INT64_MAX = (1 << 63) - 1

# What a volume gets when the request names no size.
DEFAULT_VOLUME_SIZE = GIB


def round_up(size: int, granularity: int) -> int:
    """The smallest multiple of ``granularity`` (bytes, > 0) that is not below ``size`` (bytes)."""
    return -(-size // granularity) * granularity


@dataclass(frozen=True, slots=True)
class SizeRange:
    """A validated CSI CapacityRange: bytes, 0 where the request set no bound."""

    required: int = 0
    limit: int = 0

    def __post_init__(self) -> None:
        for name, value in (("required_bytes", self.required), ("limit_bytes", self.limit)):
            if value < 0:
                raise InvalidArgument(f"capacity_range.{name} is negative: {value}")
        if self.limit and self.required > self.limit:
            raise InvalidArgument(
                f"capacity_range contradicts itself: required_bytes {self.required} > limit_bytes {self.limit}"
            )

    def admits(self, size: int) -> bool:
        """Whether a volume of ``size`` bytes satisfies the range."""
        return size >= self.required and (not self.limit or size <= self.limit)

    def choose(self, *, granularity: int, default: int = DEFAULT_VOLUME_SIZE, maximum: int = INT64_MAX) -> int:
        """The size in bytes to make: required (or the default) rounded up, never down.

        Raises OutOfRange when no multiple of ``granularity`` up to ``maximum`` lies in the range.
        """
        wanted = self.required or (min(default, self.limit) if self.limit else default)
        size = round_up(max(wanted, 1), granularity)
        if self.limit and size > self.limit:
            raise OutOfRange(
                f"no size between {self.required} and {self.limit} bytes is a multiple of {granularity} bytes",
                remedy=f"Raise the limit to at least {size} bytes.",
            )
        if size > maximum:
            raise OutOfRange(f"{size} bytes are more than the largest volume of {maximum} bytes")
        return size
