"""Alerts by e-mail. The mails of an incident are one conversation; a mail that is sent twice keeps its id."""

from __future__ import annotations

import logging
import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from evalvault_pipeline.errors import ChannelUnavailable, InvalidSetting
from evalvault_pipeline.publishing.alerts import Message

TIMEOUT_SECONDS = 20.0
DOMAIN = "evalvault.invalid"  # of message ids only
_log = logging.getLogger(__name__)


def send_mail(url: SecretStr, message: Message, *, sender: str, to: Sequence[str]) -> None:
    """Send by the server at `smtp://` (STARTTLS where it is offered, and always before a password) or `smtps://`.

    Raises ChannelUnavailable, InvalidSetting.
    """
    parts = urlsplit(url.get_secret_value())
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or port == 0:
        raise InvalidSetting("SMTP_URL cannot be used. Write smtp://user:password@host:587 or smtps://host.")
    try:
        with _connected(parts.scheme, parts.hostname, port) as server:
            if parts.username:
                server.login(unquote(parts.username), unquote(parts.password or ""))
            refused = server.send_message(_mail(message, sender, to))
    except (OSError, smtplib.SMTPException, ssl.SSLError) as error:
        code = getattr(error, "smtp_code", None)
        what = f"{type(error).__name__} {code}" if code else type(error).__name__
        raise ChannelUnavailable(
            f"The mail server {parts.hostname} does not take the message ({what}). Check SMTP_URL and the addresses: "
            "evalvault alert test"
        ) from None
    if refused:  # the others have it: sending it again would be a double for them
        _log.warning(
            "the mail server %s refused %d of %d receivers of %s. Check EVALVAULT_ALERT_EMAIL_TO.",
            parts.hostname,
            len(refused),
            len(to),
            message.id,
        )


def _connected(scheme: str, host: str, port: int | None) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if scheme == "smtps":
        return smtplib.SMTP_SSL(host, port or 465, timeout=TIMEOUT_SECONDS, context=context)
    server = smtplib.SMTP(host, port or 587, timeout=TIMEOUT_SECONDS)
    try:
        server.ehlo()
        if server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo()
        elif server.has_extn("auth"):
            raise smtplib.SMTPNotSupportedError("it asks for a password without STARTTLS")
    except BaseException:
        server.close()
        raise
    return server


def _mail(message: Message, sender: str, to: Sequence[str]) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = " ".join(message.title.split())[:200]
    mail["From"] = sender
    mail["To"] = ", ".join(to)
    mail["Date"] = formatdate(localtime=False)
    mail["Message-ID"] = f"<{message.id}.{message.opened_at}@{DOMAIN}>"
    if message.id.startswith(f"{message.incident}.") and message.id != f"{message.incident}.1":
        mail["In-Reply-To"] = mail["References"] = f"<{message.incident}.1.{message.opened_at}@{DOMAIN}>"
    mail.set_content(message.text)
    return mail
