"""Files to manifest to batches: readers, layouts, splits, sources, preprocessing, loading."""
