"""The addresses of the REST interface, one subject per module."""
