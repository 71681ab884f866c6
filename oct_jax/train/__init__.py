"""Two-stage transfer learning: batches and a model in, checkpoints out."""
