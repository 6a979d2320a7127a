"""Datasets: the folder every room reads, published layouts, the doctor, splits and the generated streets."""
