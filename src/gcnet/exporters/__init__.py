"""Export of trained networks to ONNX, torch.export and OpenVINO files."""
