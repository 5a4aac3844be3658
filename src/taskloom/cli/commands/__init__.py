"""The commands, by purpose. Each parses, asks one use case, and shows what comes of it."""
