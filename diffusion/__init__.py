"""The distribution of codes; knows nothing of pixels."""
