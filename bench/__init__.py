"""The benchmark that decides: the same work done by Taskloom, by bare SQLite and by its peers, side by side."""
