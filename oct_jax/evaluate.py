"""`python -m oct_jax.evaluate run=...`; also `recalibrate`, `adapt`, `monitor`."""

import sys

from oct_jax.commands import cli, entry

if __name__ == "__main__":
    sys.exit(entry.run(cli.evaluate))
