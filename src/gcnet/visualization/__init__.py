"""Figures and pages: attention maps, annotated images, plots."""
