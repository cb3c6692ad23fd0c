"""An array backend: records in one SQLite file, images as sparse files beside it."""
