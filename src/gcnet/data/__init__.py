"""Image decoding, data sets, transforms and loading; COCO annotations; generated scenes."""
