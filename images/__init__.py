"""Images: files, colour modes, masks, regions and data sets. This package knows nothing of codes."""
