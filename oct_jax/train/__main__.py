"""`python -m oct_jax.train stage=frozen`; `--help` lists the settings."""

import sys

from oct_jax.commands import entry as command
from oct_jax.commands.settings import TrainConfig, parse


def main(words: list[str]) -> None:
    """Trains one stage."""
    parse(TrainConfig, words, {})  # a mistake in the words is told before JAX is imported
    from oct_jax.commands.train import train
    from oct_jax.runs.folder import read_settings
    from oct_jax.runs.processes import is_writer, join_processes

    settings = read_settings(words)
    join_processes(settings.distributed)
    train(settings, command.make_console(quiet=not is_writer()))


if __name__ == "__main__":
    sys.exit(command.run(main))
