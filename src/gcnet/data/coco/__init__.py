"""Detection and instance segmentation data in COCO's JSON format: masks, issues, repaired copies."""
