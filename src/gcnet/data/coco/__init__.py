"""Object detection and instance segmentation data in COCO format."""
