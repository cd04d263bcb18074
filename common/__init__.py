"""Errors, configuration, files, model directories, scores: what every package needs. Imports none of them."""
