"""Block devices of any kind: what a node in /dev is, and who uses a device."""
