"""The values that every layer speaks of: frozen, without behavior beyond what they derive from themselves.

Times are aware datetimes in UTC. Everything here goes through JSON unchanged (`store.types` does that), which is how
nested values are stored and how events are kept.
"""
