"""Class maps in formats that other programs read: PNG files, run lengths, polygons, GeoJSON."""

from semseg_app.masks.png import COMPRESS_LEVEL, Palette, color_png, colorize, gray_png, indexed_png

__all__ = ["COMPRESS_LEVEL", "Palette", "color_png", "colorize", "gray_png", "indexed_png"]
