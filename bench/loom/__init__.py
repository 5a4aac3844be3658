"""What Taskloom does in the benchmark. Public names only, so that it runs over older commits too."""
