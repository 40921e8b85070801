"""Fusing an ONNX graph with no model code: "value == conv(source)", carried forward."""
