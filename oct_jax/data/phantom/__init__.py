"""The embedded data set: synthetic B-scans with known lesions, for a first day without data.

A scan is a stack of layers. Each layer has a thickness and a brightness in every column; lesions
change these, or are drawn between the layers. Brightness is on the display's scale (about the
fourth root of the echo's intensity, as clinical scanners export it), and so is the speckle.

All that is not a lesion (size, position, tilt, brightness, noise, shadows, borders) has the same
distribution in every class, so that nothing but the lesion tells the class. Lesions lie anywhere
along the scan, not about the fovea as in patients: a heatmap must find them, and cannot be right by
lying in the centre. Synthetic scans test software; a score on them says nothing about patients.
"""

from oct_jax.data.phantom.anatomy import Anatomy, draw_anatomy
from oct_jax.data.phantom.rendering import HEIGHT
from oct_jax.data.phantom.scan import PhantomScan, phantom_scan
from oct_jax.data.phantom.source import PhantomReader, phantom_scans

__all__ = [
    "HEIGHT",
    "Anatomy",
    "PhantomReader",
    "PhantomScan",
    "draw_anatomy",
    "phantom_scan",
    "phantom_scans",
]
