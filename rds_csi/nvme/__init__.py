"""What the host's kernel says about NVMe: sysfs, and this host's own identity."""
