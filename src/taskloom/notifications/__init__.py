"""The way from a committed status change to whoever listens: callbacks in this process, and webhooks."""
