"""Post the verdict of a scheduled evaluation to Slack; the workflow passes its figures in the environment."""

import os
import sys

from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler, ServerErrorRetryHandler
from slack_sdk.webhook import WebhookClient

MARKS = {"pass": ":white_check_mark:", "fail": ":x:", "inconclusive": ":grey_question:"}


def main() -> int:
    url = os.environ.get("SLACK_WEBHOOK_URL")
    if not url:
        print("::notice title=Slack::the secret SLACK_WEBHOOK_URL is not set, so nobody is told.")
        return 0
    client = WebhookClient(url)
    client.retry_handlers += [RateLimitErrorRetryHandler(max_retry_count=2), ServerErrorRetryHandler(max_retry_count=2)]
    answer = client.send(text=summary(os.environ))
    if answer.status_code != 200:
        print(f"::error title=Slack::the webhook answered {answer.status_code}.")
    return int(answer.status_code != 200)


def summary(figures: "os._Environ[str]") -> str:
    outcome = figures.get("OUTCOME") or ""
    if not outcome:
        return f":warning: The weekly evaluation reached no verdict. <{figures['RUN_URL']}|Log>"
    rate, low, high = (100 * float(figures[name]) for name in ("PASS_RATE", "PASS_RATE_LOW", "PASS_RATE_HIGH"))
    return (
        f"{MARKS[outcome]} Weekly evaluation: *{outcome}*. {rate:.1f} % of {figures['CASES']} cases passed "
        f"(95 % interval {low:.1f} to {high:.1f} %), {figures['METRICS']}. <{figures['RUN_URL']}|Report>"
    )


if __name__ == "__main__":
    sys.exit(main())
