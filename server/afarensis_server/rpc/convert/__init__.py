"""Converts between domain values and the messages of the contract: one module per noun, pure functions only.

``x_message(value)`` makes a message of a domain value. ``x_value(message, path, found)`` makes a domain value of a
message; what is structurally wrong with it goes into ``found`` under the field's path, limits are left to the nouns.
"""
