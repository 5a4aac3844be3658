"""What the others do in the benchmark."""
