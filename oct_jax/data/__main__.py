"""`python -m oct_jax.data audit ROOT` and `... prepare ROOT out=FOLDER`; `--help` tells more."""

import sys

from oct_jax.commands import cli, entry

if __name__ == "__main__":
    sys.exit(entry.run(cli.data))
