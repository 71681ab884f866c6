"""One answer for an eye, from all B-scans of its volume.

Training scans go through the fovea, a volume's outer B-scans do not: a healthy macula's edge looks
unlike healthy training scans. So the eye's class comes from the middle of the scanned field: the
mean of its B-scans' pooled features goes through the model's head, as if they were one scan. The
rest of the volume can only make the answer more cautious.

The mean is weighted by disease (`weights_of`). A plain mean drowns what few B-scans show: of eyes
composed of 25 real B-scans, 3 of them diseased, it finds none, the weighted mean 99 %
(`experiments/eyes.py`); of healthy eyes the two are the same.

Where a rule was fitted on eyes (`fit_rule` on their pooled outputs), it decides. Without one,
`refer_uncalibrated` does, whose limits are fixed numbers that no data have tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from oct_jax.data.volumes import Volume
from oct_jax.task import TIERS, Task
from oct_jax.types import Referral

CENTRE = 1500.0
"""Micrometres from the centre of the field: the inner ring of the ETDRS grid, 3 mm across."""
NEIGHBOURS = 3
"""B-scans beside each other that must agree before they outweigh the rest of the eye."""
SURE = 0.9
"""Probability of one tier at which an eye that nobody calibrated is given it."""
ALARM = 0.5
"""Mean probability of disease in neighbouring B-scans that outweighs the eye's."""
LEAST = 0.05
"""Weight of a B-scan without disease, beside one of 1.05 for a diseased one."""
MOST_UNREADABLE = 0.2
"""Share of the middle B-scans that may be missing or unlike the training scans."""


@dataclass(frozen=True)
class Field:
    """Which B-scans of a volume the eye's class is taken from.

    Attributes:
      central: of each B-scan, whether it lies in the middle.
      words: what the middle is, for a person.
      obstacle: why no answer for the macula can be taken from this volume; "" where one can.
    """

    central: Bool[np.ndarray, "bscans"]
    words: str
    obstacle: str = ""


def field_of(volume: Volume) -> Field:
    """The middle of a volume.

    B-scans within `CENTRE` of the centre of the scanned field, where the device gives positions;
    else the middle half of them by number. All of them where they are few, or cross the centre.
    """
    count = len(volume)
    everything = np.ones(count, bool)
    if volume.pattern == "circle":
        obstacle = "a circular scan goes around the optic disc and shows no macula"
        return Field(everything, "a circular scan", obstacle)
    if volume.pattern == "radial" or count < 2 * NEIGHBOURS:
        return Field(everything, f"all {count} B-scans" if count > 1 else "the only B-scan")
    if volume.distances:
        away = np.abs(volume.distances)
        return Field(away <= max(CENTRE, away.min()), "the central 3 mm")
    places = (np.arange(count) + 0.5) / count
    middle = np.abs(places - 0.5) <= 0.25
    return Field(middle, "the middle half of the B-scans (the file gives no positions)")


def weights_of(
    probabilities: Float[np.ndarray, "bscans classes"],
    central: Bool[np.ndarray, "bscans"],
    task: Task,
) -> Float[np.ndarray, "bscans"]:
    """How much each B-scan counts in the eye's mean; they sum to 1.

    `LEAST` plus the probability of disease, averaged over the B-scan and its two neighbours, so
    that a single odd one counts a third; 0 outside of the middle. All alike in a task without a
    healthy class.

    Args:
      probabilities: of each readable B-scan.
      central: which of them lie in the middle; at least one.
      task: that the classes are of.
    """
    healthy = np.array([tier == "observe" for tier in task.tiers])
    middle = probabilities[central]
    disease = 1 - middle[:, healthy].sum(1) if healthy.any() else np.ones(len(middle))
    beside = np.convolve(np.pad(disease, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    weights = np.zeros(len(probabilities))
    weights[central] = LEAST + beside
    return weights / weights.sum()


def pool(
    features: Float32[np.ndarray, "bscans channels"], weights: Float[np.ndarray, "bscans"]
) -> Float32[np.ndarray, "1 channels"]:
    """The weighted mean of the B-scans' pooled features."""
    return (weights @ features.astype(np.float64))[None].astype(np.float32)


def neighbourhoods(values: Float[np.ndarray, "bscans"]) -> Float[np.ndarray, "_runs"]:
    """Mean of each B-scan and the next two; of all, where there are fewer.

    Returns:
      One value for each run of `NEIGHBOURS`, in order of its first.
    """
    length = min(NEIGHBOURS, len(values))
    return np.convolve(values, np.ones(length) / length, mode="valid")


def refer_uncalibrated(
    eye: Float[np.ndarray, "classes"],
    bscans: Float[np.ndarray, "bscans classes"],
    field: Field,
    numbers: Sequence[int],
    task: Task,
) -> tuple[Referral, str]:
    """The referral of an eye where no eyes were at hand to calibrate one, and why.

    In this order: `urgent` where the eye or three neighbouring B-scans of the middle look urgent;
    `defer` where three at the edge do, or where three of the middle show disease and the eye does
    not; the tier that has `SURE` of the eye's probability; else `defer`.

    Args:
      eye: probabilities of the eye.
      bscans: probabilities of each readable B-scan, in order.
      field: the middle of the volume, for these B-scans.
      numbers: of the B-scans in the acquisition, for the reason.
      task: that the classes are of.
    """
    urgent, healthy = np.array(task.urgent), np.array([tier == "observe" for tier in task.tiers])
    urgency = bscans[:, urgent].sum(1)
    if eye[urgent].sum() >= ALARM:
        return "urgent", f"{_shares(eye, urgent, task)} over {field.words}"
    middle = np.flatnonzero(field.central)
    start = int(neighbourhoods(urgency[middle]).argmax())
    if neighbourhoods(urgency[middle])[start] >= ALARM:
        run = middle[start : start + NEIGHBOURS]
        shares = _shares(bscans[run].mean(0), urgent, task)
        return "urgent", f"{_named(run, numbers)} in the middle: {shares}"
    start = int(neighbourhoods(urgency).argmax())
    if neighbourhoods(urgency)[start] >= ALARM:
        run = np.arange(start, min(start + NEIGHBOURS, len(urgency)))
        shares = _shares(bscans[run].mean(0), urgent, task)
        return "defer", f"{_named(run, numbers)} away from the middle: {shares}; look at them"
    disease = 1 - bscans[middle][:, healthy].sum(1)
    start = int(neighbourhoods(disease).argmax())
    if eye[healthy].sum() >= ALARM and neighbourhoods(disease)[start] >= ALARM:
        run = middle[start : start + NEIGHBOURS]
        shares = _shares(bscans[run].mean(0), ~healthy, task)
        return "defer", f"{_named(run, numbers)} in the middle: {shares}; the rest does not agree"
    tiers = np.array([tier or "" for tier in task.tiers])
    for tier in TIERS:
        if eye[tiers == tier].sum() >= SURE:
            rest = _most_urgent(bscans[middle], tier, task)
            return tier, f"{_shares(eye, tiers == tier, task)} over {field.words}{rest}"
    best = task.classes[int(eye.argmax())]
    return "defer", (
        f"not sure: {best} {eye.max():.0%} over {field.words}; {SURE:.0%} are asked of an eye"
    )


def obstacle_of(
    field: Field, readable: Bool[np.ndarray, "all"], unlike: Bool[np.ndarray, "all"]
) -> str:
    """Why an eye is deferred whatever the model says of it; "" where nothing speaks against it.

    Args:
      field: the middle of the whole volume.
      readable: of each B-scan, whether its file could be read.
      unlike: of each B-scan, whether it is unlike the training scans; false where nobody knows.
    """
    if field.obstacle:
        return field.obstacle
    middle = int(field.central.sum())
    gone = int((field.central & ~readable).sum())
    strange = int((field.central & unlike).sum())
    if gone > MOST_UNREADABLE * middle:
        return f"{gone} of the {middle} B-scans in the middle cannot be read"
    if strange > MOST_UNREADABLE * middle:
        return f"{strange} of the {middle} B-scans in the middle are unlike the training scans"
    return ""


def _most_urgent(bscans: np.ndarray, tier: str, task: Task) -> str:
    """What the neighbouring B-scans of the middle show at most of more urgent tiers, in words."""
    more = np.array([other in TIERS[: TIERS.index(tier)] for other in task.tiers])
    if not more.any():
        return ""
    highest = neighbourhoods(bscans[:, more].sum(1)).max()
    names = " or ".join(name for name, inside in zip(task.classes, more, strict=True) if inside)
    return f"; {names} in neighbouring B-scans at most {highest:.0%}"


def _shares(probabilities: np.ndarray, chosen: np.ndarray, task: Task) -> str:
    """The chosen classes that matter, with their probabilities."""
    named = [
        (float(share), name)
        for name, share, inside in zip(task.classes, probabilities, chosen, strict=True)
        if inside
    ]
    largest = max(named)[0]
    told = [
        f"{name} {share:.0%}"
        for share, name in sorted(named, reverse=True)
        if share >= 0.1 * largest
    ]
    return " and ".join(told)


def _named(run: np.ndarray, numbers: Sequence[int]) -> str:
    first, last = numbers[run[0]], numbers[run[-1]]
    return f"B-scan {first}" if first == last else f"B-scans {first} to {last}"
