"""Several hosts train one stage: the result of one, and after a kill and a restart the same bits.

    python experiments/hosts.py [hosts=4]

As root every process is a host of its own: a network namespace with an address and a name, all
joined by a bridge; else all are on the loopback interface. A narrow network on synthetic scans;
one CPU device in each process. In turn, on copies of one frozen stage: one process trains the
second stage; all hosts do; all hosts do, one of them is killed, what becomes of the others is
waited for, and the same command is given to all again. Prints what was the same; exit code 1 where
something was not.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from oct_jax.commands.parsing import split_words
from oct_jax.model.protocol import build
from oct_jax.runs.best import restore_best
from oct_jax.runs.config import read_run_config

NETWORK = ["phantom_patients=24", "image_size=32", "width=0.25", "variant=large_minimalistic"]
FROZEN = ("stage=frozen", "epochs=2", "batch_size=8", "threads=1", *NETWORK)
FINETUNE = ("stage=finetune", "epochs=3", "learning_rate=1e-3", "batch_size=8", "threads=1")
CHECKPOINTS = ("checkpoint_steps=2",)
PORT, BRIDGE = 8476, "oct_jax_bridge"
WAIT = 300
"""Seconds in which the others must notice that a host is gone."""


def main(words: list[str]) -> int:
    """Runs all of it; returns the exit code."""
    count = int(({"hosts": "4"} | split_words(words))["hosts"])
    with tempfile.TemporaryDirectory() as name, open_hosts(count) as hosts:
        root = Path(name)
        train(root / "alone", FROZEN, [[]])
        for other in ("together", "killed"):
            shutil.copytree(root / "alone", root / other)
        train(root / "alone", FINETUNE, [[]])
        train(root / "together", (*FINETUNE, *CHECKPOINTS), hosts)
        kill_one(root / "killed", (*FINETUNE, *CHECKPOINTS), hosts)
        train(root / "killed", (*FINETUNE, *CHECKPOINTS), hosts)
        first, last, angle = differences(root / "alone", root / "together")
        same = states_equal(root / "together", root / "killed")
    print(f"loss of {count} hosts / of one, first epoch: {first:.6f}, last: {last:.6f}")
    print(f"cosine of what the weights have moved, {count} hosts and one: {angle:.6f}")
    print(f"killed and restarted, the same bits: {same}")
    # Sums over devices round differently, and Adam makes that grow.
    return 0 if same and abs(first - 1) < 1e-5 and abs(last - 1) < 1e-2 and angle > 0.95 else 1


@contextmanager
def open_hosts(count: int) -> Iterator[list[list[str]]]:
    """For each host the words before its command; hosts are namespaces where we may make them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("not root, or no ip: all processes on the loopback interface")
        yield [[] for _ in range(count)]
        return
    names = [f"oct_jax_{number}" for number in range(count)]
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("link", "set", BRIDGE, "up")
        for number, name in enumerate(names):
            make_host(number, name)
        print(f"{count} network namespaces, 10.77.0.1 to 10.77.0.{count}, on a bridge")
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True)


def make_host(number: int, name: str) -> None:
    """A namespace on the bridge, in which this machine's name is the namespace's own address."""
    address, wire = f"10.77.0.{number + 1}", f"oct_jax_v{number}"
    hosts = Path("/etc/netns", name, "hosts")  # bound over /etc/hosts by `ip netns exec`
    hosts.parent.mkdir(parents=True, exist_ok=True)
    hosts.write_text(f"127.0.0.1 localhost\n{address} {os.uname().nodename}\n")
    ip("netns", "add", name)
    ip("link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", name)
    ip("link", "set", wire, "master", BRIDGE, "up")
    ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
    ip("-n", name, "link", "set", "eth0", "up")
    ip("-n", name, "link", "set", "lo", "up")


def ip(*words: str) -> None:
    """One command of iproute2."""
    subprocess.run(["ip", *words], check=True)


def start(root: Path, words: tuple[str, ...], hosts: list[list[str]]) -> list[subprocess.Popen]:
    """The training command on every host."""
    coordinator = "10.77.0.1" if hosts[0] else "localhost"
    processes = []
    for index, before in enumerate(hosts):
        place = [f"distributed={coordinator}:{PORT}/{index}/{len(hosts)}"] if len(hosts) > 1 else []
        with Path(root, f"host{index}.log").open("w") as log:
            command = [*before, sys.executable, "-m", "oct_jax.train", *words, *place]
            processes.append(subprocess.Popen(command, cwd=root, stdout=log, stderr=log))
    return processes


def train(root: Path, words: tuple[str, ...], hosts: list[list[str]]) -> None:
    """Trains to the end."""
    root.mkdir(exist_ok=True)
    begun = time.perf_counter()
    for index, process in enumerate(start(root, words, hosts)):
        if process.wait() != 0:
            raise SystemExit(Path(root, f"host{index}.log").read_text())
    taken = time.perf_counter() - begun
    print(f"{root.name}: {words[0]}, {len(hosts)} process(es), {taken:.0f} s", flush=True)


def kill_one(root: Path, words: tuple[str, ...], hosts: list[list[str]]) -> None:
    """Kills the last host after its second checkpoint, and waits for the others to end."""
    processes = start(root, words, hosts)
    saved = root / "runs" / "default" / "finetune" / "last"
    while sum(1 for _ in saved.glob("[0-9]*")) < 1 and processes[0].poll() is None:
        time.sleep(0.01)
    processes[-1].send_signal(signal.SIGKILL)
    begun = time.perf_counter()
    codes = []
    for process in processes:
        try:
            codes.append(process.wait(max(1, WAIT - (time.perf_counter() - begun))))
        except subprocess.TimeoutExpired:
            process.kill()
            codes.append(f"still there after {WAIT} s")
    taken = time.perf_counter() - begun
    print(f"{root.name}: one host killed; exit codes {codes} within {taken:.0f} s", flush=True)


def differences(alone: Path, together: Path) -> tuple[float, float, float]:
    """Ratios of the first and the last epoch's loss, and the cosine of both ways of the weights."""
    losses = []
    for root in (alone, together):
        rows = Path(root, "runs/default/finetune/metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["loss"] for row in rows])
    first, last = (losses[1][epoch] / losses[0][epoch] for epoch in (0, -1))
    begun = best_weights(alone, "frozen")
    one, other = (best_weights(root, "finetune") - begun for root in (alone, together))
    return first, last, float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def best_weights(root: Path, stage: str) -> np.ndarray:
    """All parameters of a stage's best epoch in one row."""
    run = root / "runs" / "default"
    variables, _ = restore_best(run / stage, build(read_run_config(run).model).shapes)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(variables.params)])


def states_equal(one: Path, other: Path) -> bool:
    """Whether both runs have the same bits of weights at their best, and the same last losses."""
    losses = []
    for root in (one, other):
        rows = Path(root, "runs/default/finetune/metrics.jsonl").read_text().splitlines()
        losses.append([(row["step"], row["val_loss"]) for row in map(json.loads, rows)])
    same = best_weights(one, "finetune").tobytes() == best_weights(other, "finetune").tobytes()
    return same and losses[0] == losses[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
