"""Which of several arrays lie on one device, and how their volumes there are told apart. Pure."""

from collections.abc import Mapping

from rds_csi.arrays.protocol import Array, Placed
from rds_csi.errors import ConfigurationError

# The owners of the other arrays on an array's device, by its name.
Siblings = Mapping[str, frozenset[str]]


def check_places(children: Mapping[str, Array]) -> None:
    """ConfigurationError for two arrays that would take each other's volumes for their own."""
    seen: dict[object, str] = {}
    for name, child in children.items():
        if not isinstance(child, Placed):
            continue
        other = seen.setdefault(child.place, name)
        if other != name:
            raise ConfigurationError(
                f"the arrays {other} and {name} are on one device, {child.place.device}, and both are of the cluster "
                f"{child.place.owner!r}: every volume would be in both",
                remedy="Give one of them another name by cluster=… in its URL; volumes that exist keep theirs.",
            )


def siblings_of(children: Mapping[str, Array]) -> Siblings:
    """The owners of what an array may meet on its device, and another of the arrays has."""
    places = {name: child.place for name, child in children.items() if isinstance(child, Placed)}
    return {
        name: frozenset(other.owner for other in places.values() if other.device == place.device and other != place)
        for name, place in places.items()
    }


def on_one_device(one: Array, other: Array) -> bool:
    """Whether both are known to be on the same device."""
    return isinstance(one, Placed) and isinstance(other, Placed) and one.place.device == other.place.device
