"""A secret from AWS Secrets Manager, by boto3 (extra `aws`). What it is for and how long it is used stands in `secrets.py`."""

from __future__ import annotations

import logging
import os

from evalvault_pipeline.errors import SecretUnavailable, UnusableSecret

TIMEOUT_SECONDS = 5
REMEDY = "Check EVALVAULT_AWS_SECRET, AWS_DEFAULT_REGION and the role of this process."
REMEDIES = {
    "AccessDeniedException": "Allow secretsmanager:GetSecretValue on it to the role of this process.",
    "ResourceNotFoundException": "Check the name in EVALVAULT_AWS_SECRET, and AWS_DEFAULT_REGION.",
    "InvalidRequestException": "It is marked for deletion: restore it, or name another.",
    "DecryptionFailure": "Allow kms:Decrypt on its key to the role of this process.",
}


def ask_aws(secret_id: str) -> str:
    """The text of a secret, plain or a JSON object, by its name or ARN. Raises UnusableSecret, SecretUnavailable."""
    try:
        import boto3
        from botocore import exceptions
        from botocore.config import Config
    except ImportError:
        raise UnusableSecret(
            "EVALVAULT_AWS_SECRET needs boto3. Install the extra: pip install 'evalvault-pipeline[aws]'"
        ) from None
    logging.getLogger("botocore").setLevel(logging.WARNING)  # its debug lines hold what the service answers
    patience = Config(connect_timeout=TIMEOUT_SECONDS, read_timeout=TIMEOUT_SECONDS, retries={"total_max_attempts": 2})
    told = f"AWS Secrets Manager does not give {secret_id}"
    try:
        session = boto3.session.Session(region_name=_region(secret_id))
        answer = session.client("secretsmanager", config=patience).get_secret_value(SecretId=secret_id)
    except exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code") or "an error without a code")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status >= 500 or "Throttling" in code or "TooManyRequests" in code:
            raise SecretUnavailable(f"{told} ({code}). Try again in a while.") from None
        raise UnusableSecret(f"{told} ({code}). {REMEDIES.get(code, REMEDY)}") from None
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise SecretUnavailable(f"{told} ({type(error).__name__}). Check the network and AWS_ENDPOINT_URL.") from None
    except exceptions.NoRegionError:
        raise UnusableSecret(f"{told} (NoRegionError). Set AWS_DEFAULT_REGION.") from None
    except (exceptions.BotoCoreError, ValueError) as error:
        raise UnusableSecret(
            f"{told} ({type(error).__name__}). Give this process credentials of AWS: a role or AWS_*."
        ) from None
    if not isinstance(text := answer.get("SecretString"), str):
        raise UnusableSecret(f"{told} (it is binary). Keep it as text.")
    return text


def _region(secret_id: str) -> str | None:
    """That of an ARN, else of the environment: AWS's own containers have AWS_REGION, of which boto3 does not know."""
    if secret_id.startswith("arn:") and secret_id.count(":") > 3:
        return secret_id.split(":")[3]
    return os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION")
