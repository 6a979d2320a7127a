"""Annotation tools' exports -> a dataset folder.

A format is one file with `find(root)`, which names the files that are in this format, and `read(...)`, which returns
an `Export`: class names and, per photo, a function that reads its annotation. formats.py lists them. What comes after
is the same for all: labels.py numbers the classes, rasterize.py draws the shapes, dataset_writer.py writes the folder.
"""
