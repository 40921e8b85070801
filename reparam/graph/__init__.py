"""ONNX graphs: reading and writing them, and fusing what is linear in them."""
