"""Datasets: the dataset folder, published layouts, the checks of `semseg check`, label splits and pseudo labels."""
