"""The classes of the small images."""

CLASSES = ("ant", "bee", "cat")
