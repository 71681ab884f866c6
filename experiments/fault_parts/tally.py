"""What a part of the campaign counts, and how one attempt is judged."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from oct_jax.commands.entry import environment_error
from oct_jax.commands.parsing import HelpRequested
from oct_jax.types import UserError

Result = TypeVar("Result")

_EXAMPLES = 8


@dataclass
class Tally:
    """Counts of one part.

    Attributes:
      tried: attempts.
      refused: attempts that ended in one line, as a user's mistake should.
      tracebacks: attempts that ended in any other exception, or in a message of several lines.
      half_written: files or folders that were left half written.
      lost: files of the user's that were removed or changed.
      wrong: answers or artefacts that are not what the undamaged input gives, without a word.
      examples: the first slips, a line each.
    """

    tried: int = 0
    refused: int = 0
    tracebacks: int = 0
    half_written: int = 0
    lost: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def slips(self) -> int:
        """Everything that should be 0."""
        return self.tracebacks + self.half_written + self.lost + self.wrong

    def add(self, count: str, example: str) -> None:
        """Counts one slip of the kind `count`, the name of an attribute."""
        setattr(self, count, getattr(self, count) + 1)
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{count}: {' '.join(example.split())[:300]}")


def attempt(tally: Tally, label: str, action: Callable[[], Result]) -> Result | None:
    """Does something in this process and judges it as `oct_jax.commands.entry.run` would.

    Args:
      tally: gets the counts.
      label: what was tried, for the list of examples.
      action: what to do.

    Returns:
      What `action` returned; None where it was refused or failed.
    """
    tally.tried += 1
    try:
        return action()
    except HelpRequested:
        return None
    except UserError as error:
        line: str | None = str(error)
    except Exception as error:
        line = environment_error(error)
        if line is None:
            place = traceback.extract_tb(error.__traceback__)[-1]
            tally.add("tracebacks", f"{label}: {error!r} at {place.filename}:{place.lineno}")
            return None
    if line and len(line.splitlines()) == 1:
        tally.refused += 1
    else:
        tally.add("tracebacks", f"{label}: not one line: {line!r}")
    return None


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to four changes: bits flipped, parts cut, doubled, overwritten or moved.

    Half of the changes are among the first 200 bytes, where most formats keep their header.
    """
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not changed:
            break
        header = rng.random() < 0.5
        start = int(rng.integers(min(len(changed), 200) if header else len(changed)))
        length = int(rng.integers(1, 33))
        match int(rng.integers(6)):
            case 0:
                changed[start] ^= 1 << int(rng.integers(8))
            case 1:
                changed[start : start + length] = rng.bytes(length)
            case 2:
                del changed[start : start + length]
            case 3:
                changed[start:start] = changed[start : start + length]
            case 4:
                number = rng.choice(np.array([0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF], np.int64))
                order = "little" if rng.random() < 0.5 else "big"
                changed[start : start + 4] = int(number).to_bytes(4, order)
            case _:
                del changed[start:]
    return bytes(changed)
