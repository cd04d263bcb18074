"""What both packages need: configuration, image data, checkpoints, scores."""
