"""Volumes of OCT B-scans, as devices store them: one lazily read type behind many formats.

volume = open_volume("eye.vol")         # detected from content
volume.read(24), volume.spacing, volume.laterality
volume = volume_from_arrays(bscans)     # uint8 grey arrays in memory
"""

from oct_jax.data.volumes.opening import holds_volumes, is_volume, open_volume, open_volumes
from oct_jax.data.volumes.volume import BScans, Localizer, Volume, volume_from_arrays

__all__ = [
    "BScans",
    "Localizer",
    "Volume",
    "holds_volumes",
    "is_volume",
    "open_volume",
    "open_volumes",
    "volume_from_arrays",
]
