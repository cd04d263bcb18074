"""The commands of sample.py: from parsed arguments to image files."""
