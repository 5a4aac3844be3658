"""What the AWS engine costs, counted call by call."""
