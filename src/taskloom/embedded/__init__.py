"""The ports over one SQLite file."""
