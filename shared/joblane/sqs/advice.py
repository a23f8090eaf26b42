"""The sentence after an error of boto3 that says what to check."""

from __future__ import annotations

import re

ROUTE = "Check AWS_ENDPOINT_URL, the region, and the route to SQS; a VPC needs an endpoint for SQS, or internet access"
KEYS = "Give the process a role, a profile by AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
PROFILE = "Check AWS_PROFILE, and the files of AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE"
SIGN_IN = "Sign in again, for example by `aws sso login`"
RENEW = "Renew the credentials of the process"
DEPLOY = (
    "Deploy the type: `joblane up` on the local stack, `joblane deploy` on AWS; or check JOBLANE_PREFIX, AWS_REGION "
    "and the account"
)
ADVICE = {
    "NoCredentialsError": KEYS,
    "PartialCredentialsError": KEYS,
    "CredentialRetrievalError": "Check the role, the profile or the command that provides the credentials",
    "MetadataRetrievalError": "Check the role of this instance or container",
    "SSOError": SIGN_IN,
    "LoginError": SIGN_IN,
    "TokenRetrievalError": SIGN_IN,
    "ProfileNotFound": PROFILE,
    "ConfigParseError": PROFILE,
    "ConfigNotFound": PROFILE,
    "InfiniteLoopConfigError": PROFILE,
    "InvalidConfigError": PROFILE,
    "NoRegionError": "Set AWS_REGION, for example to eu-west-1",
    "InvalidRegionError": "Set AWS_REGION to the name of a region, for example eu-west-1",
    "EndpointProviderError": "Check AWS_REGION, AWS_USE_DUALSTACK_ENDPOINT and AWS_USE_FIPS_ENDPOINT",
    "InvalidDefaultsMode": "Check AWS_DEFAULTS_MODE",
    "EndpointConnectionError": ROUTE,
    "ConnectTimeoutError": ROUTE,
    "ReadTimeoutError": ROUTE,
    "ConnectionClosedError": ROUTE,
    "ProxyConnectionError": "Check HTTP_PROXY, HTTPS_PROXY and NO_PROXY",
    "SSLError": "Check AWS_CA_BUNDLE, a file with the certificate of the endpoint's issuer, and AWS_ENDPOINT_URL",
    "HTTPClientError": "Check AWS_ENDPOINT_URL, HTTP_PROXY and HTTPS_PROXY, and that the keys have no line ends",
    "JSONDecodeError": "Check the output of the profile's credential_process",
    "ValueError": "Check AWS_ENDPOINT_URL: it begins with http:// or https://, and a port is a number",
    "OSError": "Check the files and commands that the configuration of AWS names",
}
"""Name of an error, or of a base class → the sentence."""
KMS = (
    "Check the KMS key of the queue: it is enabled, and the process may call kms:Decrypt and kms:GenerateDataKey with "
    "it through SQS"
)
ADVICE_BY_CODE = {
    "ExpiredToken": RENEW,
    "RequestExpired": f"{RENEW}, and check the clock of the machine",
    "InvalidClientTokenId": "Check AWS_ACCESS_KEY_ID, and AWS_SESSION_TOKEN of temporary keys",
    "UnrecognizedClient": "Check AWS_ACCESS_KEY_ID, and AWS_SESSION_TOKEN of temporary keys",
    "InvalidSignature": "Check AWS_SECRET_ACCESS_KEY, and the clock of the machine",
    "SignatureDoesNotMatch": "Check AWS_SECRET_ACCESS_KEY, and the clock of the machine",
    "Kms": KMS,
    "KMS.": KMS,
    "AccessDenied": "Allow the process sqs:GetQueueUrl and sqs:SendMessage on the queue",
    "NonExistentQueue": DEPLOY,
    "QueueDoesNotExist": DEPLOY,
}
"""Part of an error code of AWS → the sentence. The first that is found counts: ``KmsAccessDenied`` is an error of KMS,
and ``KMS.AccessDeniedException`` the same error in SQS's older protocol. Source: API model of SQS."""

HEADER_VALUE = re.compile(r"(Invalid header value) .*", re.DOTALL)
"""The end of http.client's text for a header with a line end. The header can be the session token."""


def explained(error: Exception) -> str:
    """Return the text of an error, followed by a sentence that says what to check, if there is one."""
    response = getattr(error, "response", None) or {}  # None for an error without an answer
    code = str(response.get("Error", {}).get("Code", ""))
    by_code = (advice for part, advice in ADVICE_BY_CODE.items() if part in code)
    by_type = (ADVICE[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in ADVICE)
    advice = next(by_code, None) or next(by_type, None)
    text = HEADER_VALUE.sub(r"\1", str(error)) or type(error).__name__
    return f"{text.rstrip('.: ')}. {advice}." if advice else text
