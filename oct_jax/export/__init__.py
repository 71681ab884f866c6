"""A trained run as ONNX files that eat a scan, with all that a mobile team needs beside them."""
