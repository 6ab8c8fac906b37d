"""Sessions: the code interpreter of a thread, or one that stands alone."""
