"""`python -m oct_jax.demo`: the whole way on synthetic scans, in minutes; `--help` tells more."""

import sys

from oct_jax.commands import cli, entry

if __name__ == "__main__":
    sys.exit(entry.run(cli.demo))
