"""When Python looks for garbage that reference counts do not free, which stops everything else meanwhile."""

import gc

#: Objects made, and not freed, until a look at them. What calls and tokens leave behind is hardly ever a cycle.
_YOUNG_OBJECTS = 5_000


def rest() -> None:
    """Have it look for nothing until `begin`: what a server makes while it starts stays."""
    gc.disable()


def begin() -> None:
    """Have it look, and never again at what there is by now: to go through that takes 0.1 s."""
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
    gc.enable()
