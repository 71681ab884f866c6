"""Several processes share an epoch and train to the result of one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent.parent
WORKER = Path(__file__).with_name("process_worker.py")


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("localhost", 0))
        return bound.getsockname()[1]


def train(count, folder):
    """Runs `count` processes to their end and returns what each has written."""
    port = free_port()
    environment = os.environ | {
        "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }
    outs = [folder / f"{count}-{index}.npz" for index in range(count)]
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, str(index), str(count), str(port), out],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, out in enumerate(outs)
    ]
    for process in processes:
        _, error = process.communicate()
        assert process.returncode == 0, error
    return [dict(np.load(out)) for out in outs]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (alone,) = train(1, folder)
    return alone, train(2, folder)


def test_shards_are_disjoint_and_together_the_batch_of_one_process(runs):
    alone, (first, second) = runs
    steps, batch = alone["images"].shape[:2]
    assert first["images"].shape[1] == second["images"].shape[1] == batch // 2
    for step in range(steps):
        whole = sorted(image.tobytes() for image in alone["images"][step])
        shards = [image.tobytes() for part in (first, second) for image in part["images"][step]]
        assert sorted(shards) == whole
        assert len(set(shards)) == batch


def test_two_processes_train_to_the_result_of_one(runs):
    alone, together = runs
    for part in together:
        for name in set(alone) - {"images"}:
            np.testing.assert_allclose(part[name], alone[name], rtol=2e-4, atol=2e-5)
    for name in set(alone) - {"images"}:
        np.testing.assert_array_equal(together[0][name], together[1][name])
