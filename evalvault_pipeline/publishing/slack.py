"""Alerts in Slack: by a bot token, with a thread for each incident, or by an incoming webhook, which has none."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from evalvault_pipeline.errors import ChannelUnavailable
from evalvault_pipeline.publishing.alerts import Message
from evalvault_pipeline.reporting.incidents import Kind

if TYPE_CHECKING:
    from slack_sdk import WebClient
    from slack_sdk.http_retry.handler import RetryHandler

TIMEOUT_SECONDS = 10
HEADER, SECTION, FIELD, FIELDS = 150, 3_000, 2_000, 10  # what Slack's Block Kit takes
PLAIN = 3_900
MARKS = {
    Kind.OPENED: ":red_circle:",
    Kind.UPDATED: ":large_yellow_circle:",
    Kind.EXTENDED: ":red_circle:",
    Kind.REMINDER: ":red_circle:",
}
# The SDK's debug lines hold the webhook's address, which is its secret.
_log = logging.getLogger("evalvault_pipeline.slack")
_log.setLevel(logging.WARNING)


def post_by_webhook(url: SecretStr, message: Message) -> None:
    """Raises ChannelUnavailable. Slack has no key for repeated posts: one that timed out may stand there twice."""
    from slack_sdk.webhook import WebhookClient

    client = WebhookClient(url.get_secret_value(), timeout=TIMEOUT_SECONDS, retry_handlers=_retries(), logger=_log)
    try:
        answer = client.send(text=_plain(message), blocks=blocks(message), unfurl_links=False)
    except Exception as error:  # noqa: BLE001  urllib's, http.client's and socket's own, all of which mean the same
        raise _unavailable(type(error).__name__) from None
    if answer.status_code != 200:
        raise _unavailable(f"HTTP {answer.status_code}")


def post_by_bot(token: SecretStr, channel: str, message: Message, *, thread: str | None, api: str | None = None) -> str:
    """The message's id in its channel. With `thread`, it goes below that message, which is brought up to date first.

    Raises ChannelUnavailable.
    """
    from slack_sdk import WebClient
    from slack_sdk.errors import SlackApiError

    client = WebClient(token.get_secret_value(), timeout=TIMEOUT_SECONDS, retry_handlers=_retries(), logger=_log)
    if api:
        client.base_url = f"{api}/"
    text, built = _plain(message), blocks(message)
    try:
        if thread is not None and message.kind is not Kind.REMINDER:
            thread = _brought_up_to_date(client, channel, thread, text, built)
        answered = client.chat_postMessage(
            channel=channel,
            text=text,
            blocks=built,
            thread_ts=thread,
            reply_broadcast=thread is not None and message.kind is not Kind.UPDATED,
            unfurl_links=False,
        )
        return str(answered["ts"])
    except SlackApiError as error:
        answer: Any = error.response
        raise _unavailable(str(answer.get("error") or f"HTTP {answer.status_code}")) from None
    except Exception as error:  # noqa: BLE001  urllib's, http.client's and socket's own, all of which mean the same
        raise _unavailable(type(error).__name__) from None


def _brought_up_to_date(client: WebClient, channel: str, thread: str, text: str, built: list[dict[str, Any]]) -> str | None:
    """The thread; None where somebody deleted its first message, and with it the thread."""
    from slack_sdk.errors import SlackApiError

    try:
        client.chat_update(channel=channel, ts=thread, text=text, blocks=built)
    except SlackApiError as error:
        why = error.response.get("error")
        if why == "message_not_found":
            return None
        if why not in ("cant_update_message", "edit_window_closed"):
            raise
    return thread


def blocks(message: Message) -> list[dict[str, Any]]:
    """The message in Block Kit, cut to what Slack takes."""
    mark = MARKS.get(message.kind, ":large_green_circle:")
    built: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(message.title, HEADER), "emoji": True}}
    ]
    fields = [_markdown(f"*{_escaped(label)}*\n{_escaped(text)}", FIELD) for label, text in message.fields]
    built += [{"type": "section", "fields": fields[start : start + FIELDS]} for start in range(0, len(fields), FIELDS)][:3]
    if message.cases:
        lines = [
            f"*{_escaped(message.cases_title)}*",
            *(f"• `{_escaped(name)}` {_escaped(text)}" for name, text in message.cases),
        ]
        built.append({"type": "section", "text": _markdown("\n".join(lines), SECTION)})
    links = "  ".join(_link(label, target) for label, target in message.links)
    built.append({"type": "context", "elements": [_markdown(f"{mark} {links or _escaped(message.incident)}", SECTION)]})
    return built


def _retries() -> list[RetryHandler]:
    from slack_sdk.http_retry.builtin_handlers import (
        ConnectionErrorRetryHandler,
        RateLimitErrorRetryHandler,
        ServerErrorRetryHandler,
    )

    return [
        ConnectionErrorRetryHandler(max_retry_count=3),
        RateLimitErrorRetryHandler(max_retry_count=3),
        ServerErrorRetryHandler(max_retry_count=3),
    ]


def _unavailable(what: str) -> ChannelUnavailable:
    return ChannelUnavailable(
        f"Slack does not take the message ({what}). Check SLACK_WEBHOOK_URL, or SLACK_BOT_TOKEN and SLACK_CHANNEL: "
        "evalvault alert test"
    )


def _plain(message: Message) -> str:
    return _cut(_escaped(message.text), PLAIN)


def _markdown(text: str, limit: int) -> dict[str, str]:
    return {"type": "mrkdwn", "text": _cut(text, limit)}


def _link(label: str, target: str) -> str:
    return f"<{target}|{_escaped(label)}>" if "://" in target else f"{_escaped(label)}: `{_escaped(target)}`"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
