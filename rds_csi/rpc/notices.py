"""Which failed calls a person must know of, beside the caller who is told anyway: a pure function of call and error."""

import betterproto

from rds_csi.csi import v1 as csi
from rds_csi.errors import FailedPrecondition, FormatRefused, Internal, OutOfReach, ResourceExhausted
from rds_csi.model.notices import ClaimName, Notice, Reason

# Calls of a kubelet that repeats them until somebody acts.
_ON_NODE = frozenset({"NodeStageVolume", "NodePublishVolume", "NodeExpandVolume"})
# Calls that take room on the array.
_TAKING_ROOM = frozenset({"CreateVolume", "ControllerExpandVolume"})


def notice_of(method: str, request: betterproto.Message, error: Exception) -> Notice | None:
    """The notice of a call of ``method`` ("NodeStageVolume") that failed; None when it is nobody's business.

    Only errors raised on purpose: what is unexpected stays in the log. The text may still hold secrets.
    """
    if method in _ON_NODE and _needs_a_person(error):
        reason = Reason.FORMAT_REFUSED if isinstance(error, FormatRefused) else Reason.VOLUME_REFUSED
        return Notice(reason, str(error), warning=True, volume_id=_volume_id(request))
    if method in _TAKING_ROOM and isinstance(error, ResourceExhausted) and not isinstance(error, OutOfReach):
        claim = ClaimName.from_parameters(request.parameters) if isinstance(request, csi.CreateVolumeRequest) else None
        volume_id = _volume_id(request)
        if claim is not None or volume_id:
            return Notice(Reason.ARRAY_FULL, str(error), warning=True, volume_id=volume_id, claim=claim)
    return None


def _needs_a_person(error: Exception) -> bool:
    """Whether repeating the call cannot help by itself: its precondition fails, or something broken has a remedy."""
    return isinstance(error, FailedPrecondition) or (isinstance(error, Internal) and bool(error.remedy))


def _volume_id(request: betterproto.Message) -> str:
    volume_id = getattr(request, "volume_id", "")
    return volume_id if isinstance(volume_id, str) else ""
