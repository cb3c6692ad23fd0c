"""Arrays: the storage servers that make, grow, snapshot, export and delete volumes."""
