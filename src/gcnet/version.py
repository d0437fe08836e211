"""The version of gcnet, for installed packages and clones."""

__version__ = "0.1.0"
