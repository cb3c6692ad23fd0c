"""Filesystems: probe, format, mount, mountinfo, grow, stats."""
