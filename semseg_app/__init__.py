"""Semantic segmentation from a few labels to a verified, served model."""

__version__ = "0.1.0"
