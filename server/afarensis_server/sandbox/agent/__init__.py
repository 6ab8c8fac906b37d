"""What runs first in a session's container: starts its interpreters, watches them, and speaks for them with the server.

Standard library alone, and nothing of ``afarensis_server`` but ``guest``, ``observing`` and ``zygote``, which
lie beside it in the image under the same relative names.

=================  ===================================================================================================
``main``           the loop
``wire``           the one stream to and from the server
``interpreter``    one forked interpreter; ``execution`` is a request to it
``data``           the files below /mnt/data
``counters``       what the container used
``sources``        which versions of all this belong together
=================  ===================================================================================================
"""
