"""The data stack with other settings than those of the golden files, and the connections of Aurora."""

from __future__ import annotations

from typing import Any

import pytest

from joblane.cdk.app import Synthesised
from joblane.cdk.settings.database import Aurora
from tests.infra import templates
from tests.infra.conftest import APPS, EXISTING_NETWORK, IAM_DATABASE, NAT, RDS_HOST, RESTORED, Synth


def url(done: Synthesised, function: str) -> str:
    """Return the function's DATABASE_URL, with ``${…}`` for values of CloudFormation."""
    found = templates.variables(done.whole("acme-jobs"), function)["DATABASE_URL"]
    return templates.target({"Resources": {}}, found)


# --- Aurora --------------------------------------------------------------------------------------------------------


def test_the_owner_of_an_existing_database_can_log_in_by_iam(synth: Synth) -> None:
    done = synth("dev", database={**IAM_DATABASE, "migration_user": "owner", "migration_secret": None})
    assert url(done, "acme-migrate") == f"postgresql://owner@{RDS_HOST}:5433/acme?auth=iam"
    (user,) = templates.allowed(done.whole("acme-jobs"), "acme-migrate")["rds-db:connect"]
    assert user.endswith(":dbuser:cluster-ABC/owner")
    assert url(done, "acme-order-ship") == f"postgresql://worker@{RDS_HOST}:5433/acme?auth=iam"


# --- A restored copy -----------------------------------------------------------------------------------------------


def test_a_stage_uses_its_restored_copy_and_keeps_its_own_database(synth: Synth) -> None:
    own, restored = synth.app("ipv6"), synth.app("restored")
    # then no resource of the data stack changes, and none of its exports goes, which the deployed functions import
    assert restored.templates["acme-data"]["Resources"] == own.templates["acme-data"]["Resources"]
    exports = [
        {name: each for name, each in done.templates["acme-data"]["Outputs"].items() if "Export" in each}
        for done in (own, restored)
    ]
    assert exports[0] == exports[1]
    assert restored.templates["acme-data"]["Outputs"]["DatabaseHost"]["Value"] == RESTORED["host"]
    # and functions and migration log in to the copy
    jobs = restored.whole("acme-jobs")
    for function, user in (("acme-order-ship", "worker"), ("acme-migrate", "postgres")):
        assert url(restored, function) == f"postgresql://{user}@{RESTORED['host']}:5432/acme?auth=iam"
        (allowed,) = templates.allowed(jobs, function)["rds-db:connect"]
        assert allowed.endswith(f":dbuser:{RESTORED['resource_id']}/{user}")
    # and the migration runs for it, and knows that it is a copy
    ((run,), (before,)) = (
        templates.of_type(done.whole("acme-jobs"), "Custom::Migration").values() for done in (restored, own)
    )
    assert run["Restored"] == RESTORED["resource_id"]
    assert {"Restored", "Move"}.isdisjoint(before)
    # and everything else of the functions is as it was: network and security group
    groups = [templates.of_type(each.whole("acme-jobs"), "AWS::EC2::SecurityGroup") for each in (own, restored)]
    assert groups[0] == groups[1]


def test_a_move_that_a_person_wants_is_in_the_properties_of_the_migration(synth: Synth) -> None:
    done = synth(**APPS["restored"], move="2026-12-01T09:30:00+00:00")
    (run,) = templates.of_type(done.whole("acme-jobs"), "Custom::Migration").values()
    assert run["Move"] == "2026-12-01T09:30:00+00:00"


def test_an_rds_instance_is_restored_by_its_own_resource_id(synth: Synth) -> None:
    copy = {"host": "acme-copy.c1.eu-central-1.rds.amazonaws.com", "resource_id": "db-COPY"}
    database = {**APPS["rds"]["database"], "restored": copy}
    done = synth("dev", network=APPS["rds"]["network"], database=database)
    assert url(done, "acme-order-ship") == f"postgresql://worker@{copy['host']}:5432/acme?auth=iam"
    (allowed,) = templates.allowed(done.whole("acme-jobs"), "acme-order-ship")["rds-db:connect"]
    assert allowed.endswith(":dbuser:db-COPY/worker")


# --- An existing database ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [EXISTING_NETWORK, NAT])
def test_an_existing_database_without_a_known_group_is_reached_by_its_port(
    network: dict[str, Any], synth: Synth
) -> None:
    template = synth("dev", network=network, database=IAM_DATABASE).templates["acme-jobs"]
    (group,) = templates.of_type(template, "AWS::EC2::SecurityGroup").values()
    assert {(rule["CidrIp"], rule["FromPort"]) for rule in group["SecurityGroupEgress"]} == {
        ("0.0.0.0/0", 443),
        ("0.0.0.0/0", 5433),
    }
    assert not templates.of_type(template, "AWS::EC2::SecurityGroupIngress")


# --- Removal -------------------------------------------------------------------------------------------------------


def test_settings_of_functions_do_not_change_the_data_stack(synth: Synth) -> None:
    others = {"concurrency_budget": 40, "log_level": "DEBUG", "settings": {"EMAIL_FROM_ADDRESS": "other@example.com"}}
    robust, changed = synth.app("robust"), synth("dev", **APPS["robust"], **others)
    assert changed.templates["acme-data"] == robust.templates["acme-data"]
    assert changed.whole("acme-jobs") != robust.whole("acme-jobs")


# --- Connections ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        # Source: Aurora, Maximum connections for Aurora Serverless v2, and AWS re:Post, Working of max_connections
        # for Amazon Aurora PostgreSQL Serverless
        (0.5, 1, 189),
        (1, 4, 823),
        (0, 8, 1669),
        (1, 16, 3360),
        (0.5, 16, 2000),
        (1, 32, 5000),
        (1, 256, 5000),
        (0, 2, 400),
        (0, 1.5, 294),
    ],
)
def test_auroras_connections_follow_from_its_largest_capacity(least: float, most: float, expected: int) -> None:
    settings = Aurora.model_validate({"kind": "aurora", "min_capacity": least, "max_capacity": most})
    assert settings.max_connections == expected


@pytest.mark.parametrize(
    ("least", "most", "wanted", "advice"),
    [
        (0, 1, 190, "raise database.max_capacity (1) to 1.5"),
        (0, 8, 2001, "raise database.min_capacity (0) to 1 and database.max_capacity (8) to 10"),
        (0.5, 16, 2001, "raise database.min_capacity (0.5) to 1"),
        (4, 8, 3000, "raise database.max_capacity (8) to 14.5"),
        (0, 8, 5001, None),
    ],
)
def test_the_advised_capacity_is_the_least_with_enough_connections(
    least: float, most: float, wanted: int, advice: str | None
) -> None:
    settings = Aurora.model_validate({"kind": "aurora", "min_capacity": least, "max_capacity": most})
    assert settings.enough_for(wanted) == advice
