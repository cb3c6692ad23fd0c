"""CSI semantics only: identity, controller, group controller and node; no I/O of their own."""
