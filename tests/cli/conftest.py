from support.tiny_models import make_graph as make_graph
from support.tiny_models import network_folder as network_folder
