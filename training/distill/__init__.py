"""Distillers, one a file: its config, its operator, its paper. What the method asks of one:

    reads                     names of the maps that it compares (maps.py)
    forward(pairs, labels)    {map name: (student's, teacher's)} on one grid -> dict of named, weighted, scalar losses.
                              `labels` int `[N, H, W]`, 255 = ignore, belong to the first N images; those behind are
                              unlabeled. Maps and labels cover the same pixels.

A distiller is an nn.Module. What it learns or remembers (alignments, generators, queues, tokens) is for training only:
it goes into checkpoints, never into a model folder. All of its parameters take part in every step's losses. The names
of its losses begin with its own.
"""
