"""Alerts in Slack: by a bot token, with a thread for each incident, or by an incoming webhook, which has none."""

from __future__ import annotations

import json
import logging
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from evalvault_pipeline.errors import ChannelUnavailable
from evalvault_pipeline.publishing.alerts import Message
from evalvault_pipeline.reporting.incidents import Kind

if TYPE_CHECKING:
    from slack_sdk import WebClient
    from slack_sdk.http_retry.handler import RetryHandler

TIMEOUT_SECONDS = 10
LONGEST_WAIT_SECONDS = 30  # for a rate limit: with three tries below the lease of a delivery (alert_book.py)
HEADER, SECTION, FIELD, FIELDS = 150, 3_000, 2_000, 10  # what Slack's Block Kit takes
LABEL = 120
MOST_FIELDS = 30
# Slack refuses blocks of about 13,200 characters in all (`msg_blocks_too_long`), and documents no figure. One was refused at
# 11,341 in its texts alone (slackapi/bolt-js, issues 2509 and 2867): so the whole JSON is counted.
WHOLE = 12_000
PLAIN = 3_900
MARKS = {
    Kind.OPENED: ":red_circle:",
    Kind.UPDATED: ":large_yellow_circle:",
    Kind.EXTENDED: ":red_circle:",
    Kind.REMINDER: ":red_circle:",
}
_ENTITIES = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}
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
    if answer.body.lstrip().startswith("<"):  # Slack answers `ok`
        raise _unavailable("a web page instead of an answer: of a proxy?")


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
    """The message in Block Kit, its fields and cases cut to what Slack takes of each, and then until it takes the whole."""
    limit = FIELD
    while len(json.dumps(built := _blocks(message, limit), ensure_ascii=False)) > WHOLE:
        limit = limit * 3 // 4
    return built


def _blocks(message: Message, limit: int) -> list[dict[str, Any]]:
    mark = MARKS.get(message.kind, ":large_green_circle:")
    short = min(limit, LABEL)
    built: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(message.title, HEADER), "emoji": True}}
    ]
    fields = [_markdown(_line(f"*{_escaped(label, short)}*\n", text, limit)) for label, text in message.fields[:MOST_FIELDS]]
    built += [{"type": "section", "fields": fields[start : start + FIELDS]} for start in range(0, len(fields), FIELDS)]
    if message.cases:
        cases = [_line(f"• `{_escaped(name, short)}` ", text, limit) for name, text in message.cases]
        lines = [f"*{_escaped(message.cases_title, short)}*", *cases]
        built.append({"type": "section", "text": _markdown(_joined(lines, "\n"))})
    links = _joined([_link(label, target) for label, target in message.links], "  ")
    built.append({"type": "context", "elements": [_markdown(f"{mark} {links or _escaped(message.incident, LABEL)}")]})
    return built


def _retries() -> list[RetryHandler]:
    from slack_sdk.http_retry.builtin_handlers import (
        ConnectionErrorRetryHandler,
        RateLimitErrorRetryHandler,
        ServerErrorRetryHandler,
    )

    class PatientRateLimitErrorRetryHandler(RateLimitErrorRetryHandler):
        """Waits as long as Slack says, and leaves what is too long to the next try of the whole message."""

        def _can_retry(self, *, state: Any, request: Any, response: Any = None, error: Any = None) -> bool:
            if not super()._can_retry(state=state, request=request, response=response, error=error):
                return False
            waits = [value for name, values in response.headers.items() if name.lower() == "retry-after" for value in values]
            return not any(wait.isdigit() and int(wait) > LONGEST_WAIT_SECONDS for wait in waits)

    return [
        ConnectionErrorRetryHandler(max_retry_count=3),
        PatientRateLimitErrorRetryHandler(max_retry_count=3),
        ServerErrorRetryHandler(max_retry_count=3),
    ]


def _unavailable(what: str) -> ChannelUnavailable:
    return ChannelUnavailable(
        f"Slack does not take the message ({what}). Check SLACK_WEBHOOK_URL, or SLACK_BOT_TOKEN and SLACK_CHANNEL: "
        "evalvault alert test"
    )


def _plain(message: Message) -> str:
    return _escaped(message.text, PLAIN)


def _markdown(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text}


def _line(head: str, text: str, limit: int) -> str:
    return head + _escaped(text, limit - len(head))


def _joined(parts: Sequence[str], between: str) -> str:
    """As many of the parts, each of them whole, as a section takes."""
    text = ""
    for part in parts:
        longer = f"{text}{between}{part}" if text else part
        if len(longer) > SECTION - LABEL:  # the mark stands before links
            break
        text = longer
    return text


def _link(label: str, target: str) -> str:
    shown, place = _escaped(label, LABEL), target.translate(_ENTITIES)
    return f"<{place}|{shown}>" if "://" in target else f"{shown}: `{place}`"


def _escaped(text: str, limit: int) -> str:
    """At most `limit` characters as they are sent, in which no `&amp;` is cut in two."""
    sizes = list(accumulate(len(_ENTITIES.get(ord(char), char)) for char in text))
    if sizes and sizes[-1] > limit:
        text = f"{text[: bisect_right(sizes, limit - 1)]}…"
    return text.translate(_ENTITIES)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
