"""Labels of other formats converted to COCO annotations: YOLO and Pascal VOC."""
