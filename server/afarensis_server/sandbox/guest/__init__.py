"""What runs inside a sandbox: Python's standard library alone, since it lives in somebody else's environment."""
