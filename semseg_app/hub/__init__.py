"""The Hub: publish a model folder with its proof, and use one by its id wherever a model folder is taken.

    contents.py   which files a repository may hold, and what is checked of them
    download.py   an id -> a checked folder in the cache; `local_model` for whatever the user calls a model
    bundle.py     a model folder -> the files of a repository; card.py writes its card, artifact/licenses.py its license
    push.py       those files -> one commit, downloaded again and compared
    space.py      a Space that runs the exported graph
    model.py      SegmentationModel, the same in Python

Only `huggingface_hub` speaks with the Hub; HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what they mean there.
"""
