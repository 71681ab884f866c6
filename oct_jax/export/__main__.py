"""`python -m oct_jax.export run=...`, or `... verify BUNDLE`; `--help` lists the settings."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["verify"]:
        # Needs neither JAX nor settings, so that it works where only onnxruntime is installed.
        from oct_jax.export import verify

        sys.exit(verify.main(sys.argv[2:]))
    from oct_jax.commands import cli, entry

    sys.exit(entry.run(cli.export))
