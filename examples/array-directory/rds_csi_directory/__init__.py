"""An example of an array backend for rds-csi: image files in a directory of this machine."""
