"""The RouterOS console language that matters, executed against the menus of the simulated device."""

from rds_csi.simulator.console.session import Console

__all__ = ["Console"]
