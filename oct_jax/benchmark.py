"""`python -m oct_jax.benchmark protocol=... data=...`; `--help` lists the settings."""

import sys

from oct_jax.commands import cli, entry

if __name__ == "__main__":
    sys.exit(entry.run(cli.benchmark))
