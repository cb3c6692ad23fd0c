"""Connectors: a node's way from a target to a local block device, and back."""
