"""A classifier as one HTML page that answers offline, opened by a double click.

template.html, styles.css   the page
strings.mjs                 its words
main.mjs, queue.mjs, ...    its thread: files, list, answer, table
worker.mjs, decode.mjs, ... the worker: decoding, onnxruntime, self-test
packages.py, modules.py, page.py  how they become one file
"""

from oct_jax.export.viewer.packages import MissingPackages
from oct_jax.export.viewer.page import build_viewer

__all__ = ["MissingPackages", "build_viewer"]
