"""`python -m oct_jax.train stage=frozen`; `--help` lists the settings."""

import sys

from oct_jax import command
from oct_jax.config import TrainConfig, parse


def main(words: list[str]) -> None:
    """Trains one stage."""
    parse(TrainConfig, words, {})  # a mistake in the words is told before JAX is imported
    from oct_jax.train.loop import train
    from oct_jax.train.processes import is_writer, join_processes
    from oct_jax.train.run_folder import read_settings

    settings = read_settings(words)
    join_processes(settings.distributed)
    train(settings, command.make_console(quiet=not is_writer()))


if __name__ == "__main__":
    sys.exit(command.run(main))
