"""Running one task; dispatching, running and finishing a fan-out; the worker's loop."""
