"""A trained run as ONNX files that take raw scans, with what a mobile team needs beside them."""
