"""Which status may follow which, and under which guard: the rules as data and as pure functions.

Every function here turns what is known of a task into a `Change`: one conditional write that a store carries out. A
change holds absolute values, so carrying it out twice gives the same task, and the guard refuses it when the task has
moved on (rules 2, 3 and 4). The history entry is part of the change (rule 5).
"""

from taskloom.lifecycle.changes import (
    MAX_REASON,
    NEXT,
    Change,
    Guard,
    Patch,
    Refused,
    Standing,
    Trigger,
    Written,
    is_mine,
)
from taskloom.lifecycle.claims import Claimant, Come, Verdict, claim, claim_in_run, first_claim, is_last_chance
from taskloom.lifecycle.ends import (
    checkpointed,
    completed,
    continued,
    failed,
    given_back,
    progressed,
    rejected,
    renewed,
    waits_for_retry,
)
from taskloom.lifecycle.fan_outs import Counts, cancel_requested, counted, finalized, rejected_fan_out, totals
from taskloom.lifecycle.repairs import may_be_repaired, next_repair, repaired
from taskloom.lifecycle.steering import FAN_OUT_ENDS, TOO_LATE, cancelled, overdue, retried, too_late
from taskloom.lifecycle.suspensions import (
    answered,
    callback_of,
    sleeps,
    suspended,
    suspension,
    touched,
    waits,
    waits_for,
)

__all__ = [
    "FAN_OUT_ENDS",
    "MAX_REASON",
    "NEXT",
    "TOO_LATE",
    "Change",
    "Claimant",
    "Come",
    "Counts",
    "Guard",
    "Patch",
    "Refused",
    "Standing",
    "Trigger",
    "Verdict",
    "Written",
    "answered",
    "callback_of",
    "cancel_requested",
    "cancelled",
    "checkpointed",
    "claim",
    "claim_in_run",
    "completed",
    "continued",
    "counted",
    "failed",
    "finalized",
    "first_claim",
    "given_back",
    "is_last_chance",
    "is_mine",
    "may_be_repaired",
    "next_repair",
    "overdue",
    "progressed",
    "rejected",
    "rejected_fan_out",
    "renewed",
    "repaired",
    "retried",
    "sleeps",
    "suspended",
    "suspension",
    "too_late",
    "totals",
    "touched",
    "waits",
    "waits_for",
    "waits_for_retry",
]
