"""Two-stage transfer learning as functions of values: batches and a model in, variables out."""
