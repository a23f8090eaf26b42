"""How a connection logs in: by a password, a token of IAM, or a secret that Secrets Manager keeps.

botocore is imported where a login needs it, and for a password not at all.
"""

from __future__ import annotations

import json
import os
import re
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from botocore.credentials import Credentials

TOKEN_SECONDS = 900
"""A token opens connections for so long; one that is open stays. Source: RDS, *IAM database authentication*."""
RDS_HOST = re.compile(
    r"\.(?P<china>rds\.)?(?P<region>[a-z0-9-]+)(?(china)\.amazonaws\.com\.cn|\.rds\.amazonaws\.com(\.cn)?)$"
)
"""An endpoint of RDS or Aurora, and its region: ``NAME.ID.REGION.rds.amazonaws.com``, and in China
``NAME.ID.rds.REGION.amazonaws.com.cn``, or in the order of elsewhere where it is old.

Source: ``RdsUtils`` of aws/aws-advanced-jdbc-wrapper.
"""
SECRET_TIMEOUT_SECONDS = 3


class LoginError(OSError):
    """There is nothing to log in with now. The database counts as away: no attempt is spent, and later may do."""


class Login(Protocol):
    """Who connects, and what proves it."""

    def now(self) -> tuple[str, str | None]:
        """User and password for one connection. Raises :class:`LoginError`."""

    def renewed(self) -> bool:
        """Whether, after the server has refused the last ones, asking again may bring others."""
        return False


class PasswordLogin(Login):
    """What the address says."""

    def __init__(self, user: str, password: str | None) -> None:
        self._user, self._password = user, password

    def now(self) -> tuple[str, str | None]:
        return self._user, self._password


class IamLogin(Login):
    """A token of this process's AWS credentials, made here for each connection: no call, and nothing to rotate."""

    def __init__(self, user: str, host: str, port: int) -> None:
        # here, as a function has more processor while it starts than for its first message
        from botocore.session import Session

        self._user, self._host, self._port = user, host, port
        self._session = Session()

    def now(self) -> tuple[str, str | None]:
        """Source of the token's form: RDS, *Connecting to your DB cluster using IAM authentication*."""
        from botocore.auth import SigV4QueryAuth
        from botocore.awsrequest import AWSRequest

        parameters = {"Action": "connect", "DBUser": self._user}
        request = AWSRequest("GET", f"https://{self._host}:{self._port}/", params=parameters)
        SigV4QueryAuth(self._signer(), "rds-db", self._region(), expires=TOKEN_SECONDS).add_auth(request)
        return self._user, str(request.url).removeprefix("https://")

    def _signer(self) -> Credentials:
        credentials: Credentials | None = self._session.get_credentials()  # kept, and renewed where they can end
        if credentials is None:
            raise LoginError("DATABASE_URL: auth=iam: there are no AWS credentials to log in with")
        return credentials

    def _region(self) -> str:
        found = RDS_HOST.search(self._host)
        region = found["region"] if found else os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not region:
            raise LoginError(f"DATABASE_URL: auth=iam: no region in {self._host!r}; set AWS_REGION")
        return region


class SecretLogin(Login):
    """User and password of a secret, asked for once, and again when the server refuses them: it was rotated.

    ``secret``: name or ARN of a JSON secret with ``username`` and ``password``, as RDS makes them. ``user``: in place
    of the secret's.
    """

    def __init__(self, secret: str, user: str = "") -> None:
        self._secret, self._user = secret, user
        self._lock = threading.Lock()
        self._known: tuple[str, str] | None = None

    def now(self) -> tuple[str, str | None]:
        with self._lock:
            if self._known is None:
                self._known = self._ask()
            return self._known

    def renewed(self) -> bool:
        with self._lock:
            old, self._known = self._known, None
        return self.now() != old

    def _ask(self) -> tuple[str, str]:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        what = f"DATABASE_URL: secret {self._secret!r}"
        config = Config(
            connect_timeout=SECRET_TIMEOUT_SECONDS,
            read_timeout=SECRET_TIMEOUT_SECONDS,
            retries={"total_max_attempts": 2},
        )
        try:
            client = boto3.client("secretsmanager", config=config)
            text = client.get_secret_value(SecretId=self._secret)["SecretString"]
        except (BotoCoreError, ClientError) as error:
            raise LoginError(f"{what}: {error}") from None
        except KeyError:
            raise LoginError(f"{what}: holds bytes; a JSON text is required") from None
        try:
            found = json.loads(text)
            user, password = self._user or found["username"], found["password"]
        except (ValueError, KeyError, TypeError):  # and nothing of the text is shown
            raise LoginError(f"{what}: a JSON object with username and password is required") from None
        return str(user), str(password)
