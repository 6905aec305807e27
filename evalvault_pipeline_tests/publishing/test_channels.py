"""Slack, mail and webhook against real servers on loopback that answer 429 and 500, hang, and reset the connection."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from pydantic import SecretStr

from evalvault_pipeline.errors import ChannelUnavailable, InvalidSetting
from evalvault_pipeline.publishing import email, slack, webhook
from evalvault_pipeline.publishing.alerts import Message, sample
from evalvault_pipeline.publishing.email import send_mail
from evalvault_pipeline.publishing.slack import blocks, post_by_bot, post_by_webhook
from evalvault_pipeline.publishing.webhook import post_json
from evalvault_pipeline.reporting.incidents import Kind
from evalvault_pipeline_tests.doubles.receivers import HANG, RESET, Receiver
from evalvault_pipeline_tests.stack import free_port

TOKEN = SecretStr("xoxb-canary-000000000000")


def a_message(kind: Kind = Kind.OPENED, **changes: Any) -> Message:
    values: dict[str, Any] = {
        "id": "qa-quality-1.1",
        "incident": "qa-quality-1",
        "kind": kind,
        "title": "[경보] qa: 통과율이 80.0 % 미만",
        "fields": [("통과율", "76.6 % (64.9 % – 85.3 %)"), ("릴리스", "2026w46 <b>&")],
        "cases_title": "새로 실패한 케이스",
        "cases": [("ko-001", "암 진단비는? → 3천만원")],
        "links": [("Dagster 실행", "http://127.0.0.1:3000/runs/1"), ("보고서", "data/results/qa/report.html")],
        "content": {"kind": "opened", "datasets": ["qa"]},
    }
    return Message(**{**values, **changes})


def webhook_of(receiver: Receiver) -> SecretStr:
    return SecretStr(f"{receiver.url}/webhook/T000/B000/canary")


# --- Slack


@pytest.mark.parametrize("faults", [(), (429,), (500,), (503, 500), (RESET,)])
def test_a_webhook_that_stumbles_takes_the_message_once(faults: tuple[int | str, ...]) -> None:
    with Receiver(*faults) as receiver:
        post_by_webhook(webhook_of(receiver), a_message())
        assert len(receiver.messages) == 1
        assert "76.6 %" in receiver.texts[0]
        assert receiver.messages[0]["blocks"][0]["type"] == "header"


def test_a_long_rate_limit_is_left_to_the_next_try_of_the_message() -> None:
    """Else a delivery would outlast its lease, and a second process would send it too."""
    with Receiver(429, retry_after=120) as receiver:
        with pytest.raises(ChannelUnavailable, match="HTTP 429"):
            post_by_webhook(webhook_of(receiver), a_message())
        assert len(receiver.requests) == 1


def test_a_webhook_that_hangs_is_given_up_and_not_posted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slack may have taken the message: a second one at once would be a double."""
    monkeypatch.setattr(slack, "TIMEOUT_SECONDS", 1)
    with Receiver(HANG) as receiver, pytest.raises(ChannelUnavailable, match="does not take the message"):
        post_by_webhook(webhook_of(receiver), a_message())
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_a_refused_webhook_is_named_without_its_secret(status: int) -> None:
    with Receiver(*[status] * 9) as receiver, pytest.raises(ChannelUnavailable) as refused:
        post_by_webhook(webhook_of(receiver), a_message())
    assert f"HTTP {status}" in str(refused.value)
    assert "canary" not in str(refused.value)


def test_a_web_page_of_a_proxy_is_no_answer_of_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        monkeypatch.setattr(receiver, "_take", lambda *_: (b"<html>log in</html>",))
        with pytest.raises(ChannelUnavailable, match="a web page instead of an answer"):
            post_by_webhook(webhook_of(receiver), a_message())


def test_a_bot_keeps_an_incident_in_one_thread() -> None:
    with Receiver(429) as receiver:
        api = f"{receiver.url}/api"
        thread = post_by_bot(TOKEN, "C1", a_message(), thread=None, api=api)
        post_by_bot(TOKEN, "C1", a_message(Kind.UPDATED, title="update"), thread=thread, api=api)
        post_by_bot(TOKEN, "C1", a_message(Kind.RECOVERED, title="[복구됨] qa"), thread=thread, api=api)
        assert [message.get("thread_ts") for message in receiver.messages] == [None, thread, thread]
        assert [message["reply_broadcast"] for message in receiver.messages] == [False, False, True]
        assert [update["ts"] for update in receiver.updates] == [thread, thread]
        assert receiver.updates[-1]["blocks"][0]["text"]["text"] == "[복구됨] qa", "the first message says how it ended"


def test_a_deleted_first_message_keeps_the_recovery_from_nobody() -> None:
    with Receiver() as receiver:
        api = f"{receiver.url}/api"
        thread = post_by_bot(TOKEN, "C1", a_message(), thread=None, api=api)
        receiver.deleted.add(thread)
        post_by_bot(TOKEN, "C1", a_message(Kind.RECOVERED, title="[복구됨] qa"), thread=thread, api=api)
        assert receiver.messages[-1].get("thread_ts") is None, "a message of its own"
        assert "복구됨" in receiver.messages[-1]["text"]


def test_a_bot_that_is_refused_says_why_without_the_token() -> None:
    with Receiver(*[401] * 5) as receiver, pytest.raises(ChannelUnavailable) as refused:
        post_by_bot(TOKEN, "C1", a_message(), thread=None, api=f"{receiver.url}/api")
    assert "canary" not in str(refused.value)


def test_nobody_at_the_address() -> None:
    with pytest.raises(ChannelUnavailable):
        post_by_webhook(SecretStr("http://127.0.0.1:9/x"), a_message())


def test_a_message_is_cut_to_what_slack_takes_and_escaped() -> None:
    long = a_message(title="t" * 400, fields=[("f", "x" * 5000)] * 60, cases=[("c", "y" * 5000)] * 3)
    built = blocks(long)
    assert len(built) <= 50
    assert len(built[0]["text"]["text"]) <= 150
    fields = [field for block in built for field in block.get("fields", [])]
    assert all(len(field["text"]) <= 2000 for field in fields)
    assert all(len(block["fields"]) <= 10 for block in built if "fields" in block)
    assert max(len(block["text"]["text"]) for block in built if block["type"] == "section" and "text" in block) <= 3000
    assert "2026w46 &lt;b&gt;&amp;" in str(blocks(a_message()))
    assert "<http://127.0.0.1:3000/runs/1|Dagster 실행>" in str(blocks(a_message()))


AMPERSANDS = [(f"데이터셋 {number}", "A&B <보험> & C&D " * 120) for number in range(10)]


@pytest.mark.parametrize(
    "changes",
    [
        {"fields": AMPERSANDS},
        {"fields": AMPERSANDS, "cases": [("&" * 300, "&" * 3000)] * 3},
        {
            "fields": [("지표", "면책기간은 가입일부터 구십 일입니다. " * 200)] * 40,
            "cases": [("ko-001", "보험금 " * 2000)] * 50,
        },
        {"fields": [("quoted", '"\\\n' * 2000)] * 60, "cases": [("c", '"' * 5000)] * 3},
        {"fields": [('"' * 500, '"' * 500)] * 60, "cases": [('"' * 500, '"' * 500)] * 60},
        {"links": [("run", f"http://127.0.0.1/{'r' * 900}?a=1&b=2")] * 6, "fields": AMPERSANDS},
    ],
)
def test_a_whole_message_fits_and_nothing_in_it_is_cut_in_two(changes: dict[str, Any]) -> None:
    message = a_message(**changes)
    with Receiver() as receiver:
        post_by_webhook(webhook_of(receiver), message)
        sent = receiver.messages[0]
    assert len(json.dumps(sent["blocks"], ensure_ascii=False)) <= 12_000
    assert len(sent["blocks"]) <= 50
    texts = [sent["text"], *(text["text"] for block in sent["blocks"] for text in texts_of(block) if text["type"] == "mrkdwn")]
    for text in texts:
        assert len(text) <= 3_900
        assert not re.search(r"&(?!amp;|lt;|gt;)", text), "an entity is whole"
        assert text.count("`") % 2 == 0
    assert all(re.fullmatch(r"(<[^<>|]+\|[^<>|]+>(  )?)+", part) for part in re.findall(r"<.*>", texts[-1])), "a link is whole"
    shown = [field["text"] for block in sent["blocks"] for field in block.get("fields", [])]
    assert len(shown) == min(len(message.fields), 30), "every dataset is told of"


def texts_of(block: dict[str, Any]) -> list[dict[str, Any]]:
    return [*([block["text"]] if "text" in block else []), *block.get("fields", []), *block.get("elements", [])]


# --- any webhook


def test_a_webhook_of_ones_own_gets_the_facts_and_a_key_against_repeats() -> None:
    with Receiver() as receiver:
        post_json(SecretStr(f"{receiver.url}/hook"), a_message())
        _path, body, headers = receiver.requests[0]
    assert (body["datasets"], body["incident"], headers["Idempotency-Key"]) == (["qa"], "qa-quality-1", "qa-quality-1.1@0")
    assert "76.6 %" in body["text"]


@pytest.mark.parametrize("fault", [429, 500, RESET, HANG])
def test_a_webhook_that_fails_is_left_to_the_next_try(fault: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT_SECONDS", 1.0)
    with Receiver(fault) as receiver, pytest.raises(ChannelUnavailable):
        post_json(SecretStr(f"{receiver.url}/hook"), a_message())


def test_a_webhook_without_a_scheme_is_a_wrong_setting() -> None:
    with pytest.raises(InvalidSetting, match="EVALVAULT_ALERT_WEBHOOK_URL"):
        post_json(SecretStr("hooks.example/x"), a_message())


# --- mail


class Mailbox:
    """Keeps what it was sent; `codes` are answered first."""

    def __init__(self, *codes: str) -> None:
        self.codes, self.mails = list(codes), list[EmailMessage]()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  its name there
        if self.codes:
            return self.codes.pop(0)
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))  # type: ignore[arg-type]
        return "250 taken"


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's certificate that this process trusts."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the server's certificate, and is not installed")
    key, file = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            key,
            "-out",
            file,
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ],
        check=True,
        capture_output=True,
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return context


def started(mailbox: Mailbox, **options: Any) -> Controller:
    server = Controller(mailbox, hostname="127.0.0.1", port=free_port(), **options)
    server.start()
    return server


def port_of(server: Controller) -> int:
    assert server.server is not None
    port: int = server.server.sockets[0].getsockname()[1]
    return port


def test_a_mail_arrives_in_korean_over_starttls_with_a_password(certificate: ssl.SSLContext) -> None:
    def known(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"user", b"p@ss"))

    mailbox = Mailbox()
    server = started(mailbox, tls_context=certificate, require_starttls=True, authenticator=known, auth_required=True)
    try:
        url = SecretStr(f"smtp://user:p%40ss@localhost:{port_of(server)}")
        send_mail(url, a_message(), sender="evalvault@example.invalid", to=["a@example.invalid", "b@example.invalid"])
        recovered = a_message(Kind.RECOVERED, id="qa-quality-1.2")
        send_mail(url, recovered, sender="evalvault@example.invalid", to=["a@example.invalid"])
    finally:
        server.stop()
    first, second = mailbox.mails
    assert first["Subject"] == "[경보] qa: 통과율이 80.0 % 미만"
    assert "76.6 %" in first.get_content()
    assert first["To"] == "a@example.invalid, b@example.invalid"
    assert second["In-Reply-To"] == first["Message-ID"], "the mails of an incident are one conversation"


def test_a_server_that_nobody_vouches_for_gets_no_mail(certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    server = started(mailbox := Mailbox(), tls_context=certificate)
    try:
        with pytest.raises(ChannelUnavailable, match="SSLCertVerificationError"):
            send_mail(SecretStr(f"smtp://localhost:{port_of(server)}"), a_message(), sender="a@b.invalid", to=["c@d.invalid"])
    finally:
        server.stop()
    assert mailbox.mails == []


def test_no_password_goes_over_a_line_that_all_can_read() -> None:
    seen: list[object] = []

    def curious(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword) -> AuthResult:
        seen.append(data)
        return AuthResult(success=True)

    server = started(Mailbox(), auth_require_tls=False, authenticator=curious)
    try:
        url = SecretStr(f"smtp://user:canary@127.0.0.1:{port_of(server)}")
        with pytest.raises(ChannelUnavailable, match="SMTPNotSupportedError"):
            send_mail(url, a_message(), sender="a@b.invalid", to=["c@d.invalid"])
    finally:
        server.stop()
    assert seen == []


@pytest.mark.parametrize("code", ["451 try again later", "550 no such user"])
def test_a_mail_server_that_refuses_is_named_with_its_code(code: str) -> None:
    server = started(mailbox := Mailbox(code))
    try:
        url = SecretStr(f"smtp://127.0.0.1:{port_of(server)}")
        with pytest.raises(ChannelUnavailable, match=code[:3]):
            send_mail(url, a_message(), sender="a@b.invalid", to=["c@d.invalid"])
        send_mail(url, a_message(), sender="a@b.invalid", to=["c@d.invalid"])
    finally:
        server.stop()
    assert len(mailbox.mails) == 1


class Choosy(Mailbox):
    """Knows nobody whose name begins with x."""

    async def handle_RCPT(  # noqa: N802  its name there
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("x"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 taken"


def test_receivers_that_are_refused_are_counted_in_the_log_and_the_others_have_the_mail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = started(mailbox := Choosy())
    try:
        url = SecretStr(f"smtp://127.0.0.1:{port_of(server)}")
        send_mail(url, a_message(), sender="a@b.invalid", to=["c@d.invalid", "xavier@d.invalid", "xu@d.invalid"])
        with pytest.raises(ChannelUnavailable, match="SMTPRecipientsRefused"):
            send_mail(url, a_message(), sender="a@b.invalid", to=["xavier@d.invalid"])
    finally:
        server.stop()
    assert len(mailbox.mails) == 1
    (told,) = [record.getMessage() for record in caplog.records if record.name == "evalvault_pipeline.publishing.email"]
    assert "refused 2 of 3 receivers of qa-quality-1.1" in told
    assert "xavier" not in told


def test_a_mail_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(email, "TIMEOUT_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ChannelUnavailable, match="does not take the message"):
            send_mail(
                SecretStr(f"smtp://127.0.0.1:{silent.getsockname()[1]}"), a_message(), sender="a@b.invalid", to=["c@d.invalid"]
            )


@pytest.mark.parametrize("url", ["mail.example.invalid", "http://host", "smtp://host:99999", "smtp://"])
def test_a_mail_address_that_is_none_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(InvalidSetting, match="SMTP_URL"):
        send_mail(SecretStr(url), a_message(), sender="a@b.invalid", to=["c@d.invalid"])


def test_a_line_end_in_a_title_makes_no_header_of_its_own() -> None:
    server = started(mailbox := Mailbox())
    try:
        send_mail(
            SecretStr(f"smtp://127.0.0.1:{port_of(server)}"),
            a_message(title="x\r\nBcc: thief@example.invalid"),
            sender="a@b.invalid",
            to=["c@d.invalid"],
        )
    finally:
        server.stop()
    assert mailbox.mails[0]["Bcc"] is None


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_sample_says_that_it_is_one(language: Any) -> None:
    assert ("sample" if language == "en" else "테스트") in sample(language).text
