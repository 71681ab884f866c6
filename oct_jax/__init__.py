"""Retinal OCT B-scans classified in JAX."""
