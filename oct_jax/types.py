"""Names shared by the whole package, and its error; imports nothing, so that it costs nothing."""

from __future__ import annotations

from typing import Literal, TypeAlias

Split: TypeAlias = Literal["train", "val", "calibration", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "calibration", "test")

Referral: TypeAlias = Literal["urgent", "routine", "observe", "defer"]

Resize: TypeAlias = Literal["squash", "letterbox", "crop", "retina"]
Padding: TypeAlias = Literal["symmetric", "same"]


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line: what is wrong, where, and what to do. Commands print it and exit
    with code 2; a traceback would only hide it.
    """
