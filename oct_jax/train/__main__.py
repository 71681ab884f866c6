"""`python -m oct_jax.train stage=frozen`; `--help` lists the settings."""

import sys

from oct_jax.commands import cli, entry

if __name__ == "__main__":
    sys.exit(entry.run(cli.train))
