"""Volumes and snapshots as image files in a directory, with one JSON record each: what file arrays share."""
