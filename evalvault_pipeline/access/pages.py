"""The pages of the guard itself, in English and Korean: log in, log out, and the step from another site's link to here.

No script, nothing from elsewhere; their security policy allows no more than this one style.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;display:grid;place-content:center;min-height:90vh;margin:0 1rem;"
    "background:#f6f7f9;color:#1a1f2b}main{background:#fff;border:1px solid #d5d9e0;border-radius:8px;padding:2rem;"
    "max-width:26rem}h1{font-size:1.25rem;margin:0 0 1rem}p{margin:0 0 1rem}label{display:block;font-weight:600}"
    "input{font:inherit;width:100%;box-sizing:border-box;padding:.5rem;margin:.25rem 0 1rem;border:1px solid #767c89;"
    "border-radius:4px}button{font:inherit;padding:.5rem 1.5rem;border:0;border-radius:4px;background:#1d4ed8;color:#fff}"
    ".wrong{color:#b42318}small{color:#5b6270;display:block;margin-top:1rem}"
    "@media(prefers-color-scheme:dark){body{background:#14171f;color:#e8eaee}main{background:#1d212b;border-color:#3a404d}"
    "input{background:#14171f;color:inherit}a{color:#8fb4ff}small{color:#a3aab8}.wrong{color:#ff9a8f}}"
)
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
).encode()

WRONG_KEY = "This is not the key.", "키가 맞지 않습니다."
NOT_FROM_HERE = "Log in from this page.", "이 페이지에서 로그인하십시오."


def login_page(target: str, wrong: tuple[str, str] | None = None) -> str:
    """The form that asks for the key. `target`: the page that was asked for, a path of this server."""
    said = ""
    if wrong:
        said = f'<div class="wrong" role="alert"><p>{escape(wrong[0])}</p><p lang="ko">{escape(wrong[1])}</p></div>'
    return _page(
        f"<h1>EvalVault</h1>{said}"
        '<form method="post" action="/login">'
        f'<input type="hidden" name="next" value="{escape(target)}">'
        '<input type="text" name="user" value="evalvault" autocomplete="username" hidden>'  # for password managers
        '<label for="key">API key <span lang="ko">· API 키</span></label>'
        '<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>'
        '<button>Log in <span lang="ko">· 로그인</span></button></form>'
        "<small>The key is EVALVAULT_API_KEY of this server. Logged in already? "
        f'<a href="{escape(target)}">Go on</a>.<br>'
        '<span lang="ko">키는 이 서버의 EVALVAULT_API_KEY 값입니다. 이미 로그인했다면 '
        f'<a href="{escape(target)}">계속하십시오</a>.</span></small>'
    )


def wait(seconds: int) -> tuple[str, str]:
    return (
        f"Too many wrong keys came from your address. Try again in {seconds} s.",
        f"이 주소에서 잘못된 키가 너무 많이 입력되었습니다. {seconds}초 후에 다시 시도하십시오.",
    )


def logout_page() -> str:
    """A button, since a link that logs out could be followed by any page's picture."""
    return _page(
        '<h1>EvalVault</h1><form method="post" action="/logout">'
        '<button>Log out <span lang="ko">· 로그아웃</span></button></form>'
    )


def onward_page(target: str) -> str:
    """Leads on to `target` at once, as a page of this server: only then does the browser send the session's cookie."""
    return _page(
        f'<p><a href="{escape(target)}">Go on to EvalVault <span lang="ko">· EvalVault로 계속하기</span></a></p>',
        head=f'<meta http-equiv="refresh" content="0; url={escape(target)}">',
    )


def _page(body: str, head: str = "") -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>EvalVault</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{head}<style>{_STYLE}</style></head>'
        f"<body><main>{body}</main></body></html>"
    )
