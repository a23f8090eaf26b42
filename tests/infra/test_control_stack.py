"""The control API's routes and settings. The golden files have its other resources."""

from __future__ import annotations

from typing import Any

import pytest

from joblane.cdk.errors import StageError
from joblane.inspector.permission import ROUTES, Permission
from tests.infra import templates
from tests.infra.conftest import RealStages, Synth

# --- Routes --------------------------------------------------------------------------------------------------------


def test_there_is_a_route_for_each_permission_and_no_other(synth: Synth) -> None:
    routes = templates.of_type(synth.app("signed").templates["acme-control"], "AWS::ApiGatewayV2::Route").values()
    assert sorted(route["RouteKey"] for route in routes) == sorted(ROUTES)
    assert set(ROUTES.values()) == set(Permission)


# --- Policies ------------------------------------------------------------------------------------------------------


def test_without_the_setting_there_is_no_page_and_no_role_may_name_a_person(synth: Synth) -> None:
    done = synth.app("signed")
    assert done.jobs.page_url is None
    assert not templates.of_type(done.templates["acme-control"], "AWS::Lambda::Function")
    assert "JOBLANE_PAGE_ROLE" not in templates.variables(done.whole("acme-jobs"), "acme-control")


# --- Permissions of the function -----------------------------------------------------------------------------------


def test_the_state_of_ses_is_read_only_if_the_stage_sends_by_it(synth: Synth) -> None:
    settings = {"EMAIL_PROVIDER": "smtp", "EMAIL_FROM_ADDRESS": "no-reply@example.com", "SMTP_HOST": "smtp.example.com"}
    done = synth(package="functions", control={}, settings=settings)
    assert not [action for action in templates.allowed(done.templates["acme-jobs"], "acme-control") if "ses:" in action]
    assert "JOBLANE_MAIL_FROM" not in templates.variables(done.whole("acme-jobs"), "acme-user-invitation")


# --- Settings ------------------------------------------------------------------------------------------------------


def test_a_stage_without_the_setting_has_neither_api_nor_function(synth: Synth) -> None:
    done = synth(package="functions", removal="destroy")
    assert "acme-control" not in done.templates
    assert "acme-control" not in templates.functions(done.whole("acme-jobs"))


def test_both_stages_for_aws_have_it(real_stages: RealStages) -> None:
    for name in ("dev", "prod"):
        assert f"jobs-{name}-control" in real_stages(name).templates


def test_a_local_stage_has_no_control_api(synth: Synth) -> None:
    with pytest.raises(StageError, match="control: an emulator does not verify signatures; leave it out"):
        synth("local", control={})


def test_the_reservations_of_both_apis_are_limited_together(synth: Synth) -> None:
    api = {"authorizer": {"kind": "iam"}, "max_concurrency": 15}
    with pytest.raises(StageError, match=r"control\.max_concurrency: 5 at most is required"):
        synth(api=api, control={"max_concurrency": 6}, account_concurrency=120)


@pytest.mark.parametrize(
    ("control", "problem"),
    [
        ({"rate_per_second": 0}, "control.rate_per_second: .*greater than or equal to 1"),
        ({"burst": 0}, "control.burst: .*greater than or equal to 1"),
        ({"max_concurrency": 0}, "control.max_concurrency: .*greater than or equal to 1"),
        ({"authorizer": {"kind": "jwt"}}, "control.authorizer: there is no such setting here"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(control: dict[str, Any], problem: str, synth: Synth) -> None:
    with pytest.raises(StageError, match=f"cdk.json: stage 'dev': {problem}"):
        synth(control=control)
