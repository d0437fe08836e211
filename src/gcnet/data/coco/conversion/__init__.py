"""Conversion of other label formats to COCO annotations."""
