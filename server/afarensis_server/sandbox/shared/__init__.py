"""What the drivers have in common on the server's side: the way of one execution from bytes to its result."""
