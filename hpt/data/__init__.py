"""Images: a name or a path becomes files, files become splits, splits become a cache of decoded pixels."""
