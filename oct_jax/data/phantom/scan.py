"""One synthetic B-scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from oct_jax.arrays import ScanArray
from oct_jax.data.phantom.anatomy import Anatomy, draw_anatomy, draw_section
from oct_jax.data.phantom.lesions import LESIONS
from oct_jax.data.phantom.rendering import draw_blobs, draw_borders, lesion_mask, render, speckled


@dataclass(frozen=True)
class PhantomScan:
    """A synthetic B-scan and where its lesion is.

    Attributes:
      image: uint8 grey, (height, width).
      lesion: bool, (height, width); all false for NORMAL.
    """

    image: ScanArray
    lesion: Bool[np.ndarray, "height width"]


def phantom_scan(
    label: str, rng: np.random.Generator, anatomy: Anatomy | None = None
) -> PhantomScan:
    """A random B-scan of a class.

    Args:
      label: CNV, DME, DRUSEN or NORMAL.
      rng: decides everything else.
      anatomy: of the patient; drawn from `rng` if not given.
    """
    anatomy = anatomy or draw_anatomy(rng)
    section = draw_section(anatomy, rng)
    blobs = LESIONS[label](section, rng)
    boundaries = section.boundaries()
    signal = render(section, boundaries, anatomy.choroid_depth, rng)
    coverage = draw_blobs(signal, blobs(boundaries))
    lesion = lesion_mask(section, boundaries, coverage)
    image = speckled(signal, rng)
    draw_borders(image, lesion, section.offset, rng)
    return PhantomScan(image, lesion)
