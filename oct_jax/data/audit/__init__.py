"""What is wrong with a folder of scans, reported before a model learns it.

Every file is read, hashed, decoded and measured. Then three questions are asked: do the splits
share patients or pictures (a leak), is anything unreadable or oddly stored, and does anything but
the retina tell the class (a shortcut)?
"""

from oct_jax.data.audit.duplicates import Pair
from oct_jax.data.audit.findings import Audit, audit, clean_records
from oct_jax.data.audit.measuring import Measured
from oct_jax.data.audit.shortcut import SHORTCUT_MARGIN, Shortcut

__all__ = [
    "SHORTCUT_MARGIN",
    "Audit",
    "Measured",
    "Pair",
    "Shortcut",
    "audit",
    "clean_records",
]
