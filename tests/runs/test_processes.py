"""What several processes do together: one that fails does not leave the others waiting."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from oct_jax.runs.processes import write_once
from oct_jax.types import UserError


@pytest.fixture
def pair(monkeypatch):
    """Makes this process one of two; returns a list of what it sends."""
    sent = []

    def become(index):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda: index)
        monkeypatch.setattr(multihost_utils, "sync_global_devices", lambda name: None)
        monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", exchange)
        return sent

    def exchange(failed):
        sent.append(bool(failed))
        return np.asarray(True)

    return become


def fail():
    raise OSError(28, "No space left on device")


def test_the_process_that_fails_tells_the_others_before_it_ends(pair):
    sent = pair(0)
    with pytest.raises(OSError, match="No space left on device"):
        write_once(fail)
    assert sent == [True]


def test_the_others_end_where_the_writer_failed(pair):
    pair(1)
    with pytest.raises(UserError, match="the first process could not write"):
        write_once(fail)
