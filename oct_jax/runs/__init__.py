"""The folder of a run: layout, settings, provenance, checkpoints."""
