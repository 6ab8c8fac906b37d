"""The HTTP edge: the Assistants API as its programs know it, REST and server-sent events.

``server`` listens, ``endpoint`` is around every call, ``routes`` are thin layers over the same nouns as the gRPC edge,
``convert`` knows the wire's objects, ``fields`` reads what clients send.
"""
