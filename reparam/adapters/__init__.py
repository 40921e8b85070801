"""The only places that import paddle, onnx and onnxruntime, each when it is needed."""
