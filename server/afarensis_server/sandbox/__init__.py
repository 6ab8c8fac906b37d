"""Where untrusted code runs: one protocol, one driver per way to isolate.

``guest`` is the interpreter inside, ``observing`` looks at it from outside, and ``shared`` is what drivers do alike on
the server's side.
"""
