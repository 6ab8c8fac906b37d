"""Files: named, verified, immutable bytes."""
