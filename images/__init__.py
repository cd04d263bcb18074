"""Images in and out: files, colour modes, masks, regions and data sets. Knows no codes."""
