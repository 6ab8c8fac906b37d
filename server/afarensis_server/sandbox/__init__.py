"""Where untrusted code runs: one protocol, one driver per way to isolate."""
