"""What `TaskService` does, one purpose per module."""
