"""Evaluation: scores of a model, or of a folder of images, against reference images."""
