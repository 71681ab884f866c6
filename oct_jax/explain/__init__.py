"""Where a scan looks like a class, on a page for people, and whether that was tested."""
