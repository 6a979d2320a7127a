"""`accelerate launch -m semseg_app.training RECIPE key=value` is `semseg train RECIPE key=value`."""

from semseg_app.cli.main import main

main("train")
