"""Published figures to stand beside a benchmark's, with their sources and whether splits leak.

A figure is here only where it was read at the source that is named. Data, test scans, or number of
classes may differ from the protocol's: the column `split` says how.
"""

from __future__ import annotations

from dataclasses import dataclass

_TAMPU = "Tampu et al. 2022, Scientific Data 9:580, table 1 (a review)"
_NEH = "Sotoudeh-Paima et al. 2022, Computers in Biology and Medicine 144 (arXiv 2110.03002)"
_LEAKS = "yes"
_CLEAN = "no"
_UNKNOWN = "not stated there"


@dataclass(frozen=True)
class Published:
    """A figure of somebody else.

    Attributes:
      protocols: beside which it may stand.
      what: the model or study.
      figure: with its unit.
      split: how test scans were kept apart, as far as the source says.
      leaks: whether patients are in training and test.
      source: where it was read.
    """

    protocols: tuple[str, ...]
    what: str
    figure: str
    split: str
    leaks: str
    source: str


_KERMANY = ("by_patient", "official_clean")
PUBLISHED = (
    Published(
        _KERMANY,
        "a study of 2018 to 2022 on version 2",
        "accuracy 98.46 %",
        "split by subject",
        _CLEAN,
        _TAMPU,
    ),
    Published(
        _KERMANY,
        "two studies on version 2",
        "accuracy 95.55 % and 99.1 %",
        "the release's own",
        _LEAKS,
        _TAMPU,
    ),
    Published(
        _KERMANY,
        "two studies on version 3",
        "accuracy 98.7 % and 96.6 %",
        "the release's own",
        _LEAKS,
        _TAMPU,
    ),
    Published(
        _KERMANY,
        "two studies trained on version 2 and tested on version 3",
        "accuracy 99.6 % and 99.80 %",
        "the release's own",
        _LEAKS,
        _TAMPU,
    ),
    Published(
        ("neh",),
        "multi-scale CNN, ImageNet weights",
        "accuracy 92.0 +- 1.6 %",
        "12,649 scans of 441 patients; the abstract does not say how they were split",
        _UNKNOWN,
        _NEH,
    ),
    Published(
        ("neh",),
        "the same, trained on Kermany's scans in between",
        "accuracy 93.4 +- 1.4 %",
        "as above",
        _UNKNOWN,
        _NEH,
    ),
    Published(
        ("octdl",),
        "CurriMAE-Greedy, an ensemble of masked autoencoders trained on Kermany's scans",
        "accuracy 93.32 %, AUC 0.995",
        "the abstract does not say",
        _UNKNOWN,
        "Diagnostics 2026, 16(2):179, abstract",
    ),
    Published(
        ("srinivasan",),
        "support vector machine",
        "whole volumes right: AMD 100 %, DME 100 %, normal 86.7 %",
        "45 volumes of 45 people",
        _UNKNOWN,
        "Srinivasan et al. 2014, as told in Computational Retinal Image Analysis (2019), p. 265",
    ),
)


def published_beside(protocol: str) -> list[Published]:
    """The figures that may stand beside a protocol."""
    return [row for row in PUBLISHED if protocol in row.protocols]
