"""The login of a connection: by password, by IAM token, or by a secret in Secrets Manager.

botocore is imported only for a login that needs it. A password does not.
"""

from __future__ import annotations

import json
import os
import re
import threading
from typing import TYPE_CHECKING, Protocol

from joblane.secret_values import SecretError, fetch

if TYPE_CHECKING:
    from botocore.credentials import Credentials

LOOPBACK = ("127.0.0.1", "::1", "localhost")
TOKEN_SECONDS = 900
"""A token opens connections for this long. An open connection stays open. Source: RDS, *IAM database
authentication*."""
RDS_HOST = re.compile(
    r"\.(?P<china>rds\.)?(?P<region>[a-z]+(?:-[a-z]+)+-\d+)(?(china)\.amazonaws\.com\.cn|\.rds\.amazonaws\.com(\.cn)?)$"
)
"""An endpoint of RDS or Aurora, and its region: ``NAME.ID.REGION.rds.amazonaws.com``. In China it is
``NAME.ID.rds.REGION.amazonaws.com.cn``; older endpoints there have the order of other regions.

Source: ``RdsUtils`` of aws/aws-advanced-jdbc-wrapper.
"""


class LoginError(OSError):
    """No credentials can be had now, or the server refuses them.

    The database counts as unavailable: no attempt is used, and a later try may work.
    """


NO_PASSWORD = "RDS accepts no password from a direct or indirect member of rds_iam"  # noqa: S105
"""Source: RDS, *Database authentication*."""


class Login(Protocol):
    """The user of a connection, with the proof of identity.

    ``advice``: what to check if the server refuses it.
    """

    advice: str

    def now(self) -> tuple[str, str | None]:
        """Return user and password for one connection. Raises :class:`LoginError`."""

    def renewed(self) -> bool:
        """Fetch the credentials again after the server refused them. Return True if they have changed."""
        return False


class PasswordLogin(Login):
    """The user and the password in ``DATABASE_URL``."""

    advice = f"check user and password; {NO_PASSWORD}"

    def __init__(self, user: str, password: str | None) -> None:
        self._user, self._password = user, password

    def now(self) -> tuple[str, str | None]:
        return self._user, self._password


class IamLogin(Login):
    """A token signed with this process's AWS credentials, made for each connection without a call to AWS."""

    advice = (
        "check that the role exists and is a member of rds_iam, that IAM allows rds-db:connect for it, that IAM"
        " authentication is enabled, and this machine's clock"
    )

    def __init__(self, user: str, host: str, port: int) -> None:
        # imported here, because a function has more processor while it starts than for its first message
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
        credentials: Credentials | None = self._session.get_credentials()  # botocore caches and renews them
        if credentials is None:
            raise LoginError("DATABASE_URL: auth=iam: no AWS credentials were found")
        return credentials

    def _region(self) -> str:
        endpoint = RDS_HOST.search(self._host)
        region = (
            endpoint["region"] if endpoint else os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        )
        if not region:
            raise LoginError(f"DATABASE_URL: auth=iam: no region in {self._host!r}; set AWS_REGION")
        return region


class SecretLogin(Login):
    """User and password of a secret. They are read once, and again when the server refuses them after a rotation.

    ``secret``: name or ARN of a JSON secret with ``username`` and ``password``, as RDS creates it. ``user``: overrides
    the secret's user name.
    """

    advice = f"check the secret; {NO_PASSWORD}"

    def __init__(self, secret: str, user: str = "") -> None:
        self._secret, self._user = secret, user
        self._lock = threading.Lock()
        self._credentials: tuple[str, str] | None = None

    def now(self) -> tuple[str, str | None]:
        with self._lock:
            if self._credentials is None:
                self._credentials = self._fetch()
            return self._credentials

    def renewed(self) -> bool:
        with self._lock:
            old, self._credentials = self._credentials, None
        return self.now() != old

    def _fetch(self) -> tuple[str, str]:
        where = f"DATABASE_URL: secret {self._secret!r}"
        try:
            text = fetch(self._secret)
        except SecretError as error:
            raise LoginError(f"DATABASE_URL: {error}") from None
        try:
            secret = json.loads(text)
            user, password = self._user or secret["username"], secret["password"]
        except (ValueError, KeyError, TypeError):  # no part of the text is shown
            raise LoginError(f"{where}: a JSON object with username and password is required") from None
        return str(user), str(password)
