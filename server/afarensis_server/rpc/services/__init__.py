"""One thin servicer per service of the contract: request in, one call of a noun, response out."""
