"""From images to class maps: engines, tiles, the predictor, evaluation."""
