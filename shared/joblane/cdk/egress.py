"""The AWS services that the functions of a stage call, compared with what its network reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from joblane.cdk.constructs.code import Workload
from joblane.cdk.errors import StageError, SynthError
from joblane.cdk.services import S3, SERVICES, advice_for
from joblane.cdk.settings.network import Egress
from joblane.cdk.settings.section import SecretReference

SES = "sesv2"
Needs = Mapping[str, str]
"""Service, as boto3 names it → the first reason to call it, such as ``task 'user:invitation' sends mail``."""


def check_services(workload: Workload) -> None:
    """Raise :class:`SynthError` for a declared service that boto3 does not have."""
    for task in workload.tasks.values():
        for service in task.grants.services:
            if (advice := advice_for(service)) is not None:
                raise SynthError(f"task {task.type!r}: grants.services: boto3 has no service {service!r}; {advice}")


def needs_of(workload: Workload, *, secret_login: bool) -> Needs:
    """Return the services that functions in the stage's network call, except S3.

    ``secret_login``: a login to the database reads a secret.
    """
    needs: dict[str, str] = {}
    for service, why in _calls(workload, secret_login=secret_login):
        if service != S3:
            needs.setdefault(service, why)
    return needs


def check_egress(where: str, network: Egress, needs: Needs) -> None:
    """Raise :class:`StageError` with a sentence for each service that the network does not reach.

    ``where``: the origin of the settings, for its text.
    """
    problems = [
        f"network.egress: {network.egress} does not reach {service} ({why}): {reason}"
        for service, why in needs.items()
        if (reason := _unreached(network, service)) is not None
    ]
    if problems:
        raise StageError(f"{where}: {'; '.join(problems)}")


def _calls(workload: Workload, *, secret_login: bool) -> Iterator[tuple[str, str]]:
    stage, settings = workload.stage, workload.stage.settings
    yield "sqs", "every function calls it"
    if stage.control is not None:
        for service in ("lambda", "logs", "scheduler"):  # `joblane doctor`, `logs` and `schedules`
            yield service, "the control API calls it"
    if secret_login:
        yield "secretsmanager", "the login to the database reads a secret"
    declared = [(f"task {type_!r}", task.environment) for type_, task in workload.tasks.items()]
    declared += [(f"function {name!r}", function.environment) for name, function in workload.functions.items()]
    for caller, names in declared:
        if any(isinstance(settings.get(name), SecretReference) for name in names):
            yield "secretsmanager", f"{caller} reads a secret"
    sending = [type_ for type_, task in workload.tasks.items() if task.events]
    if sending:
        yield "events", f"task {sending[0]!r} sends events"
    for type_, task in workload.tasks.items():
        if task.grants.mail and stage.ses_sender:
            yield SES, f"task {type_!r} sends mail"
        for service in task.grants.services:
            yield service, f"task {type_!r} calls it"


def _unreached(network: Egress, service: str) -> str | None:
    """Return why the network does not reach the service and what to do, or None if it does."""
    known = SERVICES.get(service)
    match network.egress:
        case "ipv6" | "nat_instance" if not known:
            return "Joblane knows no dual-stack endpoint of it; set egress to nat"
        case "ipv6" | "nat_instance" if known and known.dual_stack is None:
            return "AWS lists no dual-stack endpoint of it; set egress to nat or endpoints"
        case "endpoints" if not known:
            return "Joblane knows no VPC endpoint of it; set egress to nat, or to none and add the endpoint yourself"
        case "none" if service not in network.reaches:
            return "add a VPC endpoint or a route for it and write it into network.reaches, or choose another egress"
    return None
