"""Labeled images: class folders, CSV tables, CIFAR, generated scenes, and their checks."""
