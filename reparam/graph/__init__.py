"""ONNX graphs: what each value is of another, as one convolution, and proofs of it."""
