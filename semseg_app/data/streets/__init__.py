"""wip"""

import numpy as np

from semseg_app.data.streets.lens import develop
from semseg_app.data.streets.render import render_scene
from semseg_app.data.streets.scene import compose
from semseg_app.data.streets.shapes import Dice

VARIETY = 1.0
CLUTTER = 1.0
CLASSES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
PALETTE = [
    (104, 182, 240),
    (150, 110, 100),
    (255, 225, 90),
    (108, 92, 140),
    (226, 152, 206),
    (72, 160, 72),
    (255, 120, 0),
    (120, 205, 190),
    (38, 70, 200),
    (225, 40, 70),
    (150, 20, 110),
]


def render(seed, index, height, width):
    layout, weather, grain = np.random.SeedSequence([seed, index]).spawn(3)
    scene = compose(Dice(layout), Dice(weather), VARIETY, CLUTTER)
    light, label = render_scene(scene, height, width)
    return develop(light, scene.lens, scene.light.rain, grain), label
