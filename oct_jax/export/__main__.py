"""`python -m oct_jax.export run=...`, or `... verify BUNDLE`; `--help` lists the settings."""

import sys


def main(words: list[str]) -> None:
    """Exports a run."""
    from oct_jax.commands import entry as command
    from oct_jax.commands.settings import ExportConfig, parse

    config = parse(ExportConfig, words, {})
    from oct_jax.export.bundle import export

    export(config, command.make_console())


if __name__ == "__main__":
    if sys.argv[1:2] == ["verify"]:
        # Needs neither JAX nor settings, so that it works where only onnxruntime is installed.
        from oct_jax.export import verify

        sys.exit(verify.main(sys.argv[2:]))
    from oct_jax.commands import entry as command

    sys.exit(command.run(main))
