"""CPU and wall time until a command has answered, against `python -c "import jax"`.

    python experiments/start_up.py scan.jpeg [runs/mine]

By the starter model where no run is given. Bytecode and compiled programs are there from the first
round on, as users have them; wrong arguments are timed once more in an interpreter that neither
reads nor writes bytecode. On a busy machine only the CPU time means much.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

ROUNDS = 5
PREDICT = "import sys, oct_jax; print(oct_jax.load(sys.argv[1]).predict(sys.argv[2]).label)"
UNCOMPILED = ", no bytecode"


def seconds(
    arguments: list[str], environment: dict[str, str], codes: set[int]
) -> tuple[float, ...]:
    """CPU and wall seconds of a Python process, which must end with one of the exit codes."""
    before, start = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, env=environment)
    wall, after = time.perf_counter() - start, getrusage(RUSAGE_CHILDREN)
    if done.returncode not in codes:
        raise SystemExit(f"{arguments}: {done.stderr.decode()}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main(scan: str, run: str = "starter") -> None:
    """Prints a row for each command: median seconds, and their ratios to importing JAX."""
    model = f"model={run}" if run == "starter" else f"run={run}"
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "import jax": ["-c", "import jax"],
            "import oct_jax": ["-c", "import oct_jax"],
            "train nosuch=1": ["-m", "oct_jax.train", "nosuch=1"],
            f"train nosuch=1{UNCOMPILED}": ["-m", "oct_jax.train", "nosuch=1"],
            "evaluate --help": ["-m", "oct_jax.evaluate", "--help"],
            "export run=nosuch": ["-m", "oct_jax.export", "run=nosuch"],
            "load(...).predict(SCAN)": ["-c", PREDICT, run, scan],
            "explain SCAN": ["-m", "oct_jax.explain", scan, model, f"out={folder}/pages"],
        }
        usual = {name: value for name, value in os.environ.items() if name[:8] != "PYTHONDO"}
        without = usual | {
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPYCACHEPREFIX": str(Path(folder, "empty")),
        }
        taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in commands}
        for number in range(ROUNDS + 1):
            for name, arguments in commands.items():
                environment = without if name.endswith(UNCOMPILED) else usual
                times = seconds(arguments, environment, {2} if "nosuch" in name else {0})
                if number:  # the first writes bytecode and compiled programs
                    taken[name].append(times)
    medians = {
        name: [statistics.median(times) for times in zip(*rows, strict=True)]
        for name, rows in taken.items()
    }
    least_cpu, least_wall = medians["import jax"]
    print(
        "| command | CPU s | wall s | CPU / import jax | wall / import jax |\n" + "|---" * 5 + "|"
    )
    for name, (cpu, wall) in medians.items():
        ratios = f"{cpu / least_cpu:.2f} | {wall / least_wall:.2f}"
        print(f"| `{name}` | {cpu:.2f} | {wall:.2f} | {ratios} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
