"""The function of a ``handler.py`` that declares a Lambda of its own, as the control API does."""

from __future__ import annotations

from constructs import Construct

from joblane.cdk.constructs.code import FunctionCode
from joblane.cdk.constructs.task_function import JobFunction
from joblane.cdk.database_access import DatabaseAccess
from joblane.cdk.settings.stage import Stage
from joblane.function import Function


class OwnFunction(JobFunction):
    """``name``: of its folder, with hyphens."""

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        stage: Stage,
        code: FunctionCode,
        access: DatabaseAccess,
        name: str,
        declared: Function,
        reserved_concurrency: int | None,
    ) -> None:
        super().__init__(
            scope,
            id_,
            stage=stage,
            code=code,
            name=f"{stage.prefix}-{name}",
            description=declared.description,
            handler=declared.handler,
            timeout=declared.timeout,
            memory_mb=declared.memory_mb,
            environment={key: stage.settings[key] for key in declared.environment if key in stage.settings},
            access=access,
            reserved_concurrency=reserved_concurrency,
        )
