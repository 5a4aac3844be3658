"""Events, their factories and handlers, and the way from a raw event to its handlers."""
