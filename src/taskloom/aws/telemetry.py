"""What a function tells CloudWatch: log lines with the facts of the task, metrics, traces.

Powertools does it where it is installed; without it lines are plain, and there are no metrics.
"""

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from taskloom.events.context import CURRENT

NAMESPACE: Final = "Taskloom"
SERVICE: Final = "taskloom"
ON_LAMBDA: Final = "AWS_LAMBDA_FUNCTION_NAME"
"""Source, also of the names below: AWS Lambda developer guide, "Defined runtime environment variables"."""
TRACED: Final = "_X_AMZN_TRACE_ID"
LOG_FORMAT: Final = "AWS_LAMBDA_LOG_FORMAT"

log = logging.getLogger(__name__)


class RunFields(logging.Filter):
    """Puts tenant, type, key, run and attempt of the task that runs on every record that is logged meanwhile."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        run = CURRENT.get(None)
        if run is not None and run.task is not None:
            task = run.task
            record.__dict__.setdefault("task", task.id)
            facts = {"tenant": task.tenant_code, "type": task.task_type, "run": task.run, "attempt": task.attempt}
            for name, value in facts.items():
                record.__dict__.setdefault(name, value)
        return True


class Telemetry:
    """Of one process."""

    def __init__(self) -> None:
        self._metrics: Any = None
        self._tracer: Any = None
        if ON_LAMBDA not in os.environ:
            return
        try:
            from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
            from aws_lambda_powertools.metrics import EphemeralMetrics
        except ImportError:
            log.debug("Powertools is not installed: no metrics, plain log lines")
            _prepare_logging(None)
            return
        _prepare_logging(LambdaPowertoolsFormatter(service=SERVICE))
        self._metrics = EphemeralMetrics(namespace=NAMESPACE, service=SERVICE)
        if TRACED in os.environ:
            try:
                from aws_lambda_powertools.tracing import Tracer

                self._tracer = Tracer(service=SERVICE, auto_patch=False)
            except ImportError:  # it needs the X-Ray SDK, an extra of its own
                log.debug("the X-Ray SDK is not installed: no traces")

    def count(self, metric: str, number: int = 1, **dimensions: str) -> None:
        """Add to *metric*."""
        if self._metrics is not None:
            for name, value in dimensions.items():
                self._metrics.add_dimension(name=name, value=value)
            self._metrics.add_metric(name=metric, unit="Count", value=number)
            self.flush()  # dimensions hold for all metrics of one line

    def flush(self) -> None:
        """Write what was counted."""
        if self._metrics is not None:
            self._metrics.flush_metrics()

    def span(self, name: str) -> AbstractContextManager[Any]:
        """A part of the trace, if there is one."""
        return nullcontext() if self._tracer is None else self._tracer.provider.in_subsegment(name=name)


def _prepare_logging(formatter: logging.Formatter | None) -> None:
    for handler in logging.root.handlers:  # those of the Lambda runtime
        handler.addFilter(RunFields())
        if formatter is not None and os.environ.get(LOG_FORMAT, "Text").upper() != "JSON":
            handler.setFormatter(formatter)


def facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a log line tells of a raw record."""
    return {name: record[name] for name in ("messageId", "eventID", "eventSourceARN") if name in record}
