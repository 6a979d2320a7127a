from support.tiny_models import make_graph as make_graph
