"""Alerts to any address, as JSON by POST: for pagers, chat systems and scripts of your own."""

from __future__ import annotations

from pydantic import SecretStr

from evalvault_pipeline.errors import ChannelUnavailable, InvalidSetting
from evalvault_pipeline.publishing.alerts import Message

TIMEOUT_SECONDS = 10.0


def post_json(url: SecretStr, message: Message) -> None:
    """The notice's facts and the message's text; `Idempotency-Key` names the notice, for receivers that pass over repeats.

    With the time at which its incident opened, since a new store begins to count anew.

    Raises ChannelUnavailable, InvalidSetting.
    """
    import httpx

    body = {
        **message.content,
        "id": message.id,
        "incident": message.incident,
        "text": message.text,
        "links": dict(message.links),
    }
    try:
        answer = httpx.post(
            url.get_secret_value(),
            json=body,
            headers={"Idempotency-Key": f"{message.id}@{message.opened_at}"},
            timeout=TIMEOUT_SECONDS,
        )
    except (httpx.UnsupportedProtocol, httpx.InvalidURL):
        raise InvalidSetting("EVALVAULT_ALERT_WEBHOOK_URL is no address. Write https://host/path.") from None
    except httpx.HTTPError as error:
        raise _unavailable(type(error).__name__) from None
    if not answer.is_success:
        raise _unavailable(f"HTTP {answer.status_code}")


def _unavailable(what: str) -> ChannelUnavailable:
    return ChannelUnavailable(
        f"The webhook does not take the message ({what}). Check EVALVAULT_ALERT_WEBHOOK_URL: evalvault alert test"
    )
