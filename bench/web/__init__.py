"""Measures the web application: `python -m bench.web`."""
