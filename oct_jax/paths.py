"""Paths as people write them; imports nothing that takes time."""

from __future__ import annotations

import os

from oct_jax.types import UserError

EXPLAINED = ".explained"
"""Ends the stem of all that `explain` writes, so that a second run does not take it for a scan."""


def expand_home(path: str | os.PathLike[str]) -> str:
    """A path with a leading `~` or `~user` as that home folder; any other path as it is.

    Raises:
      UserError: no such user.
    """
    text = os.fspath(path)
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        user = text.split(os.sep, 1)[0]
        raise UserError(f"{text}: {user} is no user's home; a folder of that name is ./{text}")
    return expanded
