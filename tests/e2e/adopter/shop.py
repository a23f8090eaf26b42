"""The adopter's project: FastAPI, SQLAlchemy and Alembic, with names that Joblane has as well."""

from __future__ import annotations

from tests import long_chains

MODELS = '''
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Tenant(Base):
    __tablename__ = "tenants"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Task(Base):
    """Something to do by hand."""

    __tablename__ = "tasks"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    text: Mapped[str]
'''

MAIN = """
import os

from fastapi import FastAPI
from joblane import JobClient
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from functions.tenant_welcome.handler import TenantWelcome, tenant_welcome
from shop.models import Tenant

app = FastAPI()
engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+pg8000://"))
jobs = JobClient()


@app.post("/tenants")
def add_tenant(name: str) -> dict[str, str]:
    with Session(engine) as session, session.begin():
        tenant = Tenant(name=name)
        session.add(tenant)
        session.flush()
        made = jobs.enqueue(tenant_welcome, TenantWelcome(tenant_id=tenant.id), session=session)
    return {"job": made.id}
"""

HANDLER = '''
"""Puts a first task on the list of a new tenant."""

from datetime import timedelta

from joblane import Payload, Queue, TaskContext, task
from pydantic import BaseModel

from shared.texts import greeting


class TenantWelcome(Payload):
    tenant_id: int


class Welcomed(BaseModel):
    text: str


@task(
    "tenant:welcome", queue=Queue.DEFAULT, max_retry=1, timeout=timedelta(minutes=1), environment=["SHOP_NAME"]
)
def tenant_welcome(payload: TenantWelcome, ctx: TaskContext) -> Welcomed:
    from shop.models import Task, Tenant

    tenant = ctx.session.get_one(Tenant, payload.tenant_id)
    text = greeting(tenant.name, ctx.settings["SHOP_NAME"])
    ctx.session.add(Task(tenant_id=tenant.id, text=text))
    return Welcomed(text=text)
'''

ALEMBIC_INI = """
[alembic]
script_location = migrations
prepend_sys_path = .
"""

ALEMBIC_ENV = """
import os

from alembic import context
from sqlalchemy import create_engine

from shop.models import Base

engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+pg8000://"))
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
"""

REVISION = '''
"""The shop's tables."""

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "a1", None, None, None


def upgrade():
    op.create_table(
        "tenants", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String, nullable=False)
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("tenant_id", sa.Integer, sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("text", sa.String, nullable=False),
    )


def downgrade():
    op.drop_table("tasks")
    op.drop_table("tenants")
'''

MAKO = '''
"""${message}"""

revision, down_revision, branch_labels, depends_on = ${repr(up_revision)}, ${repr(down_revision)}, None, None


def upgrade():
    ${upgrades if upgrades else "pass"}
'''

CLOUD = """
from aws_cdk import App, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_rds as rds
from joblane.cdk.construct import JobDatabase, Joblane

app = App(outdir=".joblane/cloud.out")
stack = Stack(app, "shop")
vpc = ec2.Vpc(stack, "Vpc", max_azs=2)
engine = rds.DatabaseClusterEngine.aurora_postgres(version=rds.AuroraPostgresEngineVersion.VER_16_6)
writer = rds.ClusterInstance.serverless_v2("Writer")
orders = rds.DatabaseCluster(stack, "Orders", engine=engine, writer=writer, vpc=vpc)
database = JobDatabase.of(orders, name="orders")
settings = {"SHOP_NAME": "the corner shop"}
joblane = Joblane(stack, "Jobs", functions="functions", vpc=vpc, database=database, prefix="shop", settings=settings)
app.synth()
print(*sorted(joblane.jobs.functions))
"""

FILES = {
    "pyproject.toml": '[project]\nname = "shop"\nversion = "1"\n\n[tool.joblane]\ncode = ["shop", "shared"]\n',
    "alembic.ini": ALEMBIC_INI,
    "migrations/env.py": ALEMBIC_ENV,
    "migrations/script.py.mako": MAKO,
    "migrations/versions/a1_shop.py": REVISION,
    "shared/__init__.py": "",
    "shared/texts.py": 'def greeting(name, shop):\n    return f"Welcome to {shop}, {name}"\n',
    "shop/__init__.py": "",
    "shop/main.py": MAIN,
    "shop/models.py": MODELS,
    "cloud/app.py": CLOUD,
    "functions/tenant_welcome/handler.py": HANDLER,
    "functions/chain_link/handler.py": long_chains.HANDLER,
}
