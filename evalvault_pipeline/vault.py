"""A secret from HashiCorp Vault, by hvac (extra `vault`). What it is for and how long it is used stands in `secrets.py`."""

from __future__ import annotations

import json
import os

from pydantic import SecretStr

from evalvault_pipeline.errors import SecretUnavailable, UnusableSecret
from evalvault_pipeline.logs import know_secrets

TIMEOUT_SECONDS = 5


def ask_vault(path: str, *, address: str, token: SecretStr | None) -> str:
    """The newest version of a secret of the KV engine, version 2, as a JSON object; `token` None: that of `vault login`.

    `path` has the mount in front. Raises UnusableSecret, SecretUnavailable.
    """
    try:
        import hvac
        from hvac import exceptions
        from requests.exceptions import RequestException
    except ImportError:
        raise UnusableSecret(
            "EVALVAULT_VAULT_PATH needs hvac. Install the extra: pip install 'evalvault-pipeline[vault]'"
        ) from None
    mount, _, rest = path.partition("/")
    told = f"Vault does not give {path}"
    try:
        client = hvac.Client(
            url=address,
            token=token.get_secret_value() if token else None,
            timeout=TIMEOUT_SECONDS,
            namespace=os.environ.get("VAULT_NAMESPACE"),
        )
        know_secrets([client.token or ""])
        answer = client.secrets.kv.v2.read_secret_version(path=rest, mount_point=mount, raise_on_deleted_version=True)
        return json.dumps(answer["data"]["data"])
    except (exceptions.Forbidden, exceptions.Unauthorized):
        raise UnusableSecret(f"{told} (denied). Check VAULT_TOKEN, and that its policy may read {mount}/data/{rest}.") from None
    except exceptions.InvalidPath:
        raise UnusableSecret(f"{told} (there is none). Write the path as `vault kv get` takes it, without data/.") from None
    except (exceptions.InternalServerError, exceptions.VaultDown, exceptions.BadGateway, exceptions.RateLimitExceeded) as error:
        raise SecretUnavailable(f"{told} ({type(error).__name__}). Try again in a while.") from None
    except RequestException as error:
        raise SecretUnavailable(f"{told} ({type(error).__name__}). Check VAULT_ADDR and the network.") from None
    except (exceptions.VaultError, KeyError, TypeError) as error:
        what = type(error).__name__
        raise UnusableSecret(
            f"{told} ({what}). Check that VAULT_ADDR is a Vault, and {mount} a KV engine of version 2."
        ) from None
