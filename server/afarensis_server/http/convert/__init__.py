"""The wire's objects and the domain's, both ways; one module for each noun."""
