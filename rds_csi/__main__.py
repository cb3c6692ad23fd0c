"""``rds-csi`` and ``python -m rds_csi``."""

import sys

from rds_csi.cli import main

if __name__ == "__main__":
    sys.exit(main())
