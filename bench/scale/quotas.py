"""Quotas of AWS that bound a fan-out, each with its source. Those marked "soft" can be raised by a request."""

from typing import Final

LAMBDA_CONCURRENCY: Final = 1_000
"""Executions at a time in an account and region; soft. Source: AWS Lambda developer guide, "Lambda quotas"."""
LAMBDA_RAMP: Final = 1_000
"""More of them every `LAMBDA_RAMP_SECONDS`, per function. Source: "Lambda scaling behavior"."""
LAMBDA_RAMP_SECONDS: Final = 10.0
MAP_CHILDREN: Final = 10_000
"""Child executions of a Distributed Map at a time. Source: AWS Step Functions developer guide, "Quotas"."""
START_BUCKET, START_RATE = 1_300, 300
"""StartExecution: bucket, and refill per second, in us-east-1, us-west-2, eu-west-1; soft. Source: "Quotas related to
API action throttling". Starts of children of a Map count as well."""
TABLE_WRITE_UNITS: Final = 40_000
"""Write units per second of an on-demand table; soft. Source: Amazon DynamoDB developer guide, "Quotas"."""
NEW_TABLE_WRITE_UNITS: Final = 4_000
"""What a new on-demand table takes at once. Source: "DynamoDB on-demand capacity mode", initial throughput."""
GROWTH_SECONDS: Final = 1_800.0
"""An on-demand table takes twice its earlier peak; more than that within this time may be throttled (same source)."""
PARTITION_WRITE_UNITS: Final = 1_000
"""Write units per second of one partition. Source: "Best practices for designing and using partition keys"."""
SQS_IN_FLIGHT: Final = 120_000
"""Messages of a standard queue in flight. Source: Amazon SQS developer guide, "Amazon SQS message quotas"."""
STATE_INPUT_BYTES: Final = 262_144
"""Input or output of a state. Source: AWS Step Functions developer guide, "Quotas"."""
S3_GET_RATE: Final = 5_500
"""GET requests per second and prefix. Source: Amazon S3 user guide, "Best practices design patterns"."""
