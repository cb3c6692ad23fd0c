"""Loop devices of this machine: block devices over files."""
