"""CPU and wall time until a command has answered, against `python -c "import jax"`.

python experiments/start_up.py runs/mine scan.jpeg
"""

import statistics
import subprocess
import sys
import time
from resource import RUSAGE_CHILDREN, getrusage

ROUNDS = 3


def seconds(arguments: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of a Python process."""
    before, start = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True)
    wall, after = time.perf_counter() - start, getrusage(RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main(run: str, scan: str) -> None:
    """Prints a row for each command: median seconds, and CPU against that of importing JAX."""
    commands = {
        "import jax": ["-c", "import jax"],
        "import oct_jax": ["-c", "import oct_jax"],
        "train nosuch=1": ["-m", "oct_jax.train", "nosuch=1"],
        "evaluate --help": ["-m", "oct_jax.evaluate", "--help"],
        "export run=nosuch": ["-m", "oct_jax.export", "run=nosuch"],
        "explain SCAN": ["-m", "oct_jax.explain", scan, f"run={run}", "out=explained"],
    }
    for arguments in commands.values():
        seconds(arguments)  # bytecode and compiled programs are there from here on
    taken = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, arguments in commands.items():
            taken[name].append(seconds(arguments))
    medians = {
        name: [statistics.median(times) for times in zip(*rows, strict=True)]
        for name, rows in taken.items()
    }
    print("| command | CPU s | wall s | CPU / import jax |\n|---|---|---|---|")
    for name, (cpu, wall) in medians.items():
        print(f"| `{name}` | {cpu:.2f} | {wall:.2f} | {cpu / medians['import jax'][0]:.2f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
