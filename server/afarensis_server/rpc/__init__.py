"""The gRPC edge: thin servicers over the nouns, converters, and the one table from errors to statuses.

Nothing outside of this package imports ``grpc`` or knows the generated messages.
"""
