"""``rds-csi doctor``: one module for each subject that it looks at, and ``examine``, which looks at all of them."""

from rds_csi.commands.doctor.examination import examine

__all__ = ["examine"]
