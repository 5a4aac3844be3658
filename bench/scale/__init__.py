"""What a fan-out on AWS would take: quotas, list prices, and a simulation of it."""
