"""The distribution of code grids. Only pipeline.py, editing.py and variation.py touch images."""
