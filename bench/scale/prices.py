"""List prices in US dollars: us-east-1, without free tier and discounts, as of November 2026.

Source: the pricing pages of the services. They change; this table is the one place where they stand.
"""

from dataclasses import dataclass
from typing import Final

AS_OF: Final = "2026-11, us-east-1"

WRITE_UNIT: Final = 0.625e-6
"""DynamoDB, on demand, standard class: a write request unit."""
READ_UNIT: Final = 0.125e-6
"""... a read request unit."""
TRANSITION: Final = 25e-6
"""Step Functions, Standard: a state transition."""
LAMBDA_REQUEST: Final = 0.20e-6
LAMBDA_GB_SECOND: Final = 13.3334e-6
"""Arm."""
SQS_REQUEST: Final = 0.40e-6
"""Standard queue; 64 KB count as one."""
SNS_PUBLISH: Final = 0.50e-6
S3_PUT: Final = 5e-6
S3_GET: Final = 0.4e-6


@dataclass(slots=True)
class Bill:
    """What was used, and what it costs."""

    write_units: float = 0
    read_units: float = 0
    transitions: float = 0
    lambda_requests: float = 0
    lambda_gb_seconds: float = 0
    sqs_requests: float = 0
    sns_publishes: float = 0
    s3_puts: float = 0
    s3_gets: float = 0

    def lines(self) -> dict[str, tuple[float, float]]:
        """Of each item the amount and its price in dollars."""
        prices = {
            "write_units": WRITE_UNIT,
            "read_units": READ_UNIT,
            "transitions": TRANSITION,
            "lambda_requests": LAMBDA_REQUEST,
            "lambda_gb_seconds": LAMBDA_GB_SECOND,
            "sqs_requests": SQS_REQUEST,
            "sns_publishes": SNS_PUBLISH,
            "s3_puts": S3_PUT,
            "s3_gets": S3_GET,
        }
        return {name: (getattr(self, name), getattr(self, name) * price) for name, price in prices.items()}

    @property
    def dollars(self) -> float:
        """The sum."""
        return sum(price for _, price in self.lines().values())
