"""From the intensities that devices store to the grey levels that they display.

Readers of the same file differ in this, and a classifier sees the difference: each volume records
the name of the transform that was used.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt16

from oct_jax.arrays import ScanArray

HEYEX_LOG = "HEYEX log: (ln(x + 0.000244) + 8.3) / 8.285"
"""Of reflectivity in [0, 1]. The curve that eyepy fitted to exports of the same scans as .vol and
as pictures. (The fourth root, which the format's description names, leaves the upper twentieth of
the grey levels below 126, where the device's own pictures have 165 to 177.)"""
LINEAR_16 = "16 bits, the 1st to 99.9th percentile of each B-scan to 0..255"


def heyex_log(reflectivity: Float32[np.ndarray, "height width"]) -> ScanArray:
    """Grey levels of the reflectivity of a `.vol` file; see `HEYEX_LOG`.

    What lies outside of the scan (the largest float, or no number at all) becomes white, as in
    the device's pictures.
    """
    inside = (reflectivity >= 0) & (reflectivity <= 1e6)  # false of NaN too
    values = np.clip(np.where(inside, reflectivity, 1.0), 0.0, 1.0)
    grey = np.clip((np.log(values + 2.44e-4) + 8.3) / 8.285, 0, 1)
    return np.where(inside, np.rint(grey * 255), 255).astype(np.uint8)


def linear_16(levels: UInt16[np.ndarray, "height width"]) -> ScanArray:
    """Grey levels of 16-bit intensities without a sure meaning; see `LINEAR_16`."""
    low, high = np.percentile(levels, [1, 99.9])
    scaled = (levels.astype(np.float32) - low) / max(high - low, 1.0)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
