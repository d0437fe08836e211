"""Speed and memory of gcnet against mmcv-lite, timm and a copy of the input, measured in one run each."""
