"""Rules on Lambda's concurrent executions, on plain data.

Reservations that do not fit are refused, because Lambda refuses them. Slots of mappings that do not fit are refused
only if a smaller ``concurrency_budget`` would make them fit. Otherwise they are a note: AWS accepts the mappings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from joblane.cdk.preflight.findings import Finding, FindingKind, note, refused
from joblane.cdk.settings.stage import UNRESERVED_CONCURRENCY
from joblane.cdk.shares import Lanes, fitting_budget
from joblane.quotas import MIN_CONCURRENCY

DEFAULT_QUOTA = 1000
"""Concurrent executions of an account that is not new. Source: Lambda quotas."""
REQUEST = (
    "aws service-quotas request-service-quota-increase --service-code lambda --quota-code L-B99A9384 --desired-value {}"
)
"""The request for more concurrent executions. AWS answers it within hours or days. Source: the quota ``Concurrent
executions`` in ``aws service-quotas list-service-quotas --service-code lambda``."""


@dataclass(frozen=True)
class Demand:
    """The concurrency of a stage.

    ``slots``: sum of ``MaximumConcurrency`` over the mappings of functions without a reservation. ``reserved``: sum of
    the reservations. ``budget`` and ``account``: ``concurrency_budget`` and ``account_concurrency`` of the stage.
    ``lanes``: the lanes that share the budget, as in :func:`~joblane.quotas.share_concurrency`. ``throttled_hours``:
    the time for which a message may be throttled until SQS moves it to its dead-letter queue, the shortest of all
    queues.
    """

    slots: int
    reserved: int
    budget: int
    account: int
    lanes: Lanes
    throttled_hours: float

    def fitting_budget(self, free: int) -> int | None:
        """Return :func:`~joblane.cdk.shares.fitting_budget` for this demand."""
        return fitting_budget(self.lanes, self.slots, self.budget, free)


@dataclass(frozen=True)
class Account:
    """Lambda concurrency of the account in the region.

    ``limit``: concurrent executions. ``reserved_by_others``: reserved for functions of other stages or applications.
    ``other_stages``: prefix → sum of its ``MaximumConcurrency``.
    """

    limit: int
    reserved_by_others: int
    other_stages: Mapping[str, int]

    @property
    def free(self) -> int:
        """Executions that other stages and reservations leave."""
        return self.limit - self.reserved_by_others - sum(self.other_stages.values())


def concurrency(demand: Demand, account: Account) -> Iterator[Finding]:
    """Find reservations that Lambda would refuse, and slots that it would throttle."""
    findings = [*_reserved(demand, account), *_slots(demand, account)]
    yield from findings
    own = account.limit - demand.reserved
    is_refused = any(finding.kind is FindingKind.REFUSED for finding in findings)
    # a smaller number that the synthesis would refuse is no advice
    passes = demand.slots <= own or demand.fitting_budget(own) is None
    if demand.account > account.limit and not is_refused and passes:
        yield note(
            "account_concurrency",
            f"the stage says {demand.account}, and the account has {account.limit}",
            f'write "account_concurrency": {account.limit} in cdk.json, so that the synth checks against it',
        )


def _reserved(demand: Demand, account: Account) -> Iterator[Finding]:
    unreserved = account.limit - account.reserved_by_others - demand.reserved
    if demand.reserved and unreserved < UNRESERVED_CONCURRENCY:
        enough = account.limit - unreserved + UNRESERVED_CONCURRENCY
        yield refused(
            "reserved concurrency",
            f"{demand.reserved} reserved here leave {unreserved} of {account.limit} concurrent executions to "
            f"functions without a reservation; Lambda keeps {UNRESERVED_CONCURRENCY} for them",
            f"remove max_concurrency of the APIs in cdk.json, or request a higher quota: {request(enough)}",
        )


def _slots(demand: Demand, account: Account) -> Iterator[Finding]:
    free = account.free - demand.reserved
    if demand.slots <= free:
        return
    parts = [(demand.slots, "for queues"), (demand.reserved, "reserved")]
    parts += [(slots, f"for the queues of {prefix}") for prefix, slots in account.other_stages.items()]
    parts += [(account.reserved_by_others, "reserved by others")]
    needs = " + ".join(f"{number} {what}" for number, what in parts if number)
    has = f"the account has {account.limit} concurrent executions, and the deploy needs {needs}"
    enough = account.limit - free + demand.slots
    if (budget := demand.fitting_budget(free)) is not None:
        yield refused(
            "Lambda concurrency",
            has,
            f'write "concurrency_budget": {budget} or less in cdk.json, or request a higher quota: {request(enough)}',
        )
        return
    # Lambda retries a throttled message for one visibility timeout, and then SQS counts one receive. Source: Lambda,
    # *Handling errors for an SQS event source*, and the sums of joblane.quotas.Numbers
    yield note(
        "Lambda concurrency",
        f"{has}; no concurrency_budget fits, because each lane gets {MIN_CONCURRENCY}. The deploy works. When many "
        "tasks are due at once, Lambda throttles some: they wait, which spends no attempt. SQS moves a message to its "
        f"dead-letter queue after about {demand.throttled_hours:.0f} hours of throttling; `joblane redrive` returns it",
        f"request a higher quota; AWS answers within hours or days: {request(enough)}",
    )


def request(enough: int) -> str:
    """Return the command that requests a quota of ``enough``, or the usual one if that is higher."""
    return REQUEST.format(max(enough, DEFAULT_QUOTA))
