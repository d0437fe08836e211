"""Labeled images: class folders, CSV tables, CIFAR, and problems of them found before training."""
