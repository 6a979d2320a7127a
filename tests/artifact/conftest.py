from support.tiny_models import network_folder as network_folder
