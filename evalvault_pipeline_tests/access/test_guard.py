"""The guard in front of an application, over real sockets: what is let in, and that nothing else reaches the application."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from evalvault_pipeline.access import login
from evalvault_pipeline.access.guard import Guard
from evalvault_pipeline.access.keys import ApiKey, Failures
from evalvault_pipeline.access.login import Login
from evalvault_pipeline.access.sessions import Sessions
from evalvault_pipeline.defs.webserver import login_of
from evalvault_pipeline.settings import load_settings
from evalvault_pipeline_tests.access.served import KEY, Clock, Site, served

HEADER = f"X-API-Key: {KEY}"
JSON = "Content-Type: application/json"
UNAUTHORIZED = b'{"error":"Unauthorized"}'


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    with served(hosts=["eval.example", "0.0.0.0", "::", ""]) as site:
        yield site


@pytest.fixture
def site(running: Site) -> Site:
    """A site at which nobody was wrong of late."""
    running.clock.now += 120
    running.passed.clear()
    return running


@pytest.fixture(scope="module")
def open_site() -> Iterator[Site]:
    """Without a key, as a developer's."""
    with served(None) as site:
        yield site


# --- the key


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("X-API-Key:",),
        ("X-API-Key: wrong",),
        (f"X-API-Key: {KEY[:-1]}",),
        (f"X-API-Key: {KEY}x",),
        (f"X-API-Key: {KEY.upper()}",),
        (f"X-API-Key: {KEY.lower()}",),
        (f"X-API-Key: wrong, {KEY}",),
        (f"X-API-Key: {KEY}, {KEY}",),
        (HEADER, HEADER),
        ("X-API-Key: wrong", HEADER),
        (HEADER, "X-API-Key: wrong"),
        ("X-API-Key: \xff\xfe",),
        (f"X-API-Key: {KEY}\xa0",),
        (f'X-API-Key: "{KEY}"',),
        (f"X-API-Key: Bearer {KEY}",),
        (f"X_API_Key: {KEY}",),
        (f"Authorization: Bearer {KEY}",),
        (f"Cookie: X-API-Key={KEY}",),
    ],
    ids=repr,
)
def test_nothing_but_the_key_sent_once_lets_in(site: Site, headers: tuple[str, ...]) -> None:
    answer = site.ask("/", "GET", *headers)
    assert (answer.status, answer.body) == (401, UNAUTHORIZED)
    assert site.passed == []


@pytest.mark.parametrize("target", [f"/?X-API-Key={KEY}", f"/?key={KEY}", f"/{KEY}", f"/login?key={KEY}"])
def test_a_key_in_the_address_lets_nobody_in(site: Site, target: str) -> None:
    assert site.ask(target).status in (401, 200)  # 200 is the form, which asks for it
    assert site.passed == []


def test_the_key_lets_in_whatever_the_case_of_the_headers_name(site: Site) -> None:
    assert [site.ask("/a", "GET", f"{name}: {KEY}").body for name in ("X-API-Key", "x-api-key", "X-Api-Key")] == [b"inside"] * 3


def test_a_wrong_key_is_refused_also_beside_a_session(site: Site) -> None:
    assert site.ask("/", "GET", site.session(), "X-API-Key: wrong").status == 401


def test_the_application_sees_neither_the_key_nor_the_session(site: Site) -> None:
    session = site.session()
    site.ask("/a?b=c", "GET", HEADER, session, "X-Other: 1")
    headers = dict(site.passed[0]["headers"])
    assert (headers[b"x-other"], site.passed[0]["query_string"]) == (b"1", b"b=c")
    assert not {b"x-api-key", b"cookie"} & set(headers)


@pytest.mark.parametrize("path", ["/", "/graphql", "/healthz/", "/healthz/x", "//healthz", "/HEALTHZ", "/login/", "//login", "/%2e%2e/login", "/login%2f", "/logout/", "/login;x", "/server_info", "/a/../healthz", "/healthz%00", "/\\healthz"])  # fmt: skip
def test_no_spelling_of_an_open_path_opens_another(site: Site, path: str) -> None:
    for method in ("GET", "POST", "HEAD"):
        assert site.ask(path, method, JSON).status == 401
    assert site.passed == []


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT", "PATCH", "DELETE", "CONNECT", "PROPFIND", "get", "FOO"])
def test_another_method_is_refused_with_and_without_the_key(site: Site, method: str) -> None:
    assert site.ask("/", method).status == 401
    answer = site.ask("/", method, HEADER)
    assert (answer.status, answer.header("allow")) == (405, "GET, HEAD, POST")
    assert site.passed == []


def test_the_health_path_is_open_under_any_name_and_says_nothing_but_ok(site: Site) -> None:
    assert site.ask("/healthz", host="evil.example").body == b"ok\n"
    head = site.ask("/healthz", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert site.ask("/healthz", "POST", JSON).status == 401


def test_what_passes_has_our_headers_in_place_of_the_applications(site: Site) -> None:
    answer = site.ask("/", "GET", HEADER)
    assert answer.header("x-frame-options") == "SAMEORIGIN"
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("referrer-policy") == "same-origin"
    assert answer.header("content-security-policy") == "frame-ancestors 'self'"
    assert answer.header("cache-control") == "private"
    assert answer.header("set-cookie") == "theirs=1"


# --- bytes that no client of good will sends


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        ("GET http://evil.example/graphql HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", 400),
        ("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", 400),
        ("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\nConnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nX-API-Key : k\r\nConnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nX-API-Key:\r\n k\r\nConnection: close\r\n\r\n", 401),
        ("POST /graphql HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n", 401),
        ("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nContent-Length: 6\r\nConnection: close\r\n\r\nabcdef", 400),
        ("GET /\x00 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_odd_requests_are_refused_before_the_application(site: Site, request_bytes: str, status: int) -> None:
    assert site.raw(request_bytes).status == status
    assert site.passed == []


def test_a_second_request_on_a_connection_is_judged_by_its_own_headers(site: Site) -> None:
    both = (
        f"GET /a HTTP/1.1\r\nHost: {{host}}\r\n{HEADER}\r\n\r\nGET /b HTTP/1.1\r\nHost: {{host}}\r\nConnection: close\r\n\r\n"
    )
    answer = site.raw(both)
    assert answer.status == 200
    assert answer.body.endswith(UNAUTHORIZED)
    assert [scope["path"] for scope in site.passed] == ["/a"]


NAMES = [
    "host",
    "x-api-key",
    "cookie",
    "origin",
    "accept",
    "content-type",
    "sec-fetch-site",
    "sec-fetch-mode",
    "sec-fetch-dest",
]
VALUES = ["localhost", "eval.example", "null", "text/html", "application/json", "navigate", "document", "same-origin", KEY[:-1], "evalvault_=x"]  # fmt: skip
PATHS = ["/", "/login", "/logout", "/healthz", "/graphql", "//", "/%00"]


@given(
    kind=st.sampled_from(["http", "websocket"]),
    method=st.sampled_from(["GET", "POST", "HEAD", "OPTIONS"]) | st.text(max_size=8),
    path=st.sampled_from(PATHS) | st.text(max_size=20),
    query=st.binary(max_size=20) | st.sampled_from([b"next=/x", b"next=//x", b"query=x"]),
    headers=st.lists(
        st.tuples(
            st.sampled_from(NAMES) | st.text("abc-", max_size=9),
            st.sampled_from(VALUES).map(str.encode) | st.binary(max_size=40),
        ),
        max_size=6,
    ),
    body=st.binary(max_size=60),
)
@settings(max_examples=150, database=None)
def test_whatever_is_sent_without_the_key_is_answered_by_the_guard(
    kind: str, method: str, path: str, query: bytes, headers: list[tuple[str, bytes]], body: bytes
) -> None:
    site = Site()
    guard = Guard(site, login=Login(lambda: ApiKey(KEY), failures=Failures(most=10**6)), hosts=["eval.example"])
    encoded = [(name.encode(), value) for name, value in [("host", b"localhost"), *headers]]
    scope = {"type": kind, "path": path, "query_string": query, "headers": encoded, "client": None, "server": None}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect" if kind == "websocket" else "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(scope | ({"method": method} if kind == "http" else {}), receive, send))
    assert site.passed == []
    assert sent[0].get("code") == 1008 or sent[0]["status"] in {200, 303, 400, 401, 403, 405, 421}
    for name, value in sent[0].get("headers", []):
        assert not re.search(rb"[\r\n\x00]", name + value)


# --- under which name


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:1", "localhost", "LOCALHOST:3000", "[::1]", "[::1]:3000", "[0:0::1]", "[::ffff:127.0.0.1]", "eval.example", "EVAL.example:8443"],
)  # fmt: skip
def test_a_name_of_this_server_is_served(site: Site, host: str) -> None:
    assert site.ask("/", "GET", HEADER, host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *"evil.example evil.example:3000 eval.example.evil.example noteval.example localhost.evil.example 127.0.0.1.evil.example".split(),
        *"127.0.0.2 10.0.0.1 0.0.0.0 [::] [::2] 127.1 2130706433 0x7f.1 017700000001 eval.example. localhost:x localhost:".split(),
        *"[::1 ::1 user@localhost localhost@evil.example localhost/x localhost,evil.example [fe80::1%25lo] [::1]x [::1]:99999999".split(),
    ],
)
def test_any_other_host_is_refused_with_the_key_and_without(site: Site, host: str) -> None:
    for headers in ((), (HEADER,), (site.session(),)):
        answer = site.ask("/", "GET", *headers, host=host)
        assert (answer.status, "EVALVAULT_WEB_HOSTS" in answer.error) == (421, True)
    assert site.passed == []


# --- from which site


def foreign(site: Site) -> list[str]:
    """`Origin` of pages that are not ours; the second is what runs on another port of this machine."""
    own = site.origin
    return [
        "http://evil.example",
        f"http://127.0.0.1:{site.port + 1}",
        "http://127.0.0.1",
        f"http://localhost:{site.port}",
        "null",
        "",
        "file://",
        f"ftp://127.0.0.1:{site.port}",
        f"{own}.evil.example",
        f"{own}@evil.example",
        f"http://evil.example/{own}",
        f"{own}, {own}",
        f"{own}/",
    ]


@pytest.mark.parametrize("credential", ["key", "session"])
def test_a_request_of_another_origin_is_refused_whoever_it_is_for(site: Site, credential: str) -> None:
    who = HEADER if credential == "key" else site.session()
    for origin in foreign(site):
        for method in ("GET", "POST"):
            answer = site.ask("/graphql", method, who, JSON, f"Origin: {origin}", "Sec-Fetch-Site: same-origin")
            assert answer.status == 403, origin
    assert site.ask("/graphql", "POST", who, JSON, f"Origin: {site.origin}", f"Origin: {site.origin}").status == 403
    assert site.passed == []


@pytest.mark.parametrize("value", ["cross-site", "same-site", "SAME-ORIGIN", "", "other"])
def test_a_request_that_the_browser_calls_foreign_is_refused_also_without_an_origin(site: Site, value: str) -> None:
    for method in ("GET", "POST"):
        assert site.ask("/graphql", method, site.session(), JSON, f"Sec-Fetch-Site: {value}").status == 403
    assert site.passed == []


def test_a_request_of_our_own_page_passes(site: Site) -> None:
    for header in (f"Origin: {site.origin}", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none", "X-None: 1"):
        assert site.ask("/graphql", "POST", site.session(), JSON, header, body="{}").body == b"inside"


def test_an_origin_is_ours_by_the_default_port_of_its_scheme_too(site: Site) -> None:
    for host, origin in (("eval.example", "https://eval.example"), ("eval.example:443", "https://eval.example"), ("eval.example", "http://eval.example:80")):  # fmt: skip
        assert site.ask("/", "POST", HEADER, JSON, f"Origin: {origin}", host=host, body="{}").status == 200
    assert site.ask("/", "POST", HEADER, JSON, "Origin: https://eval.example", host="eval.example:80", body="{}").status == 403


LINK = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Accept: text/html")


def test_a_link_of_another_site_leads_to_a_page_of_ours_that_asks_again(site: Site) -> None:
    """A browser sends a SameSite=Strict cookie only when our own page asks: else a link in Slack would ask for the key."""
    answer = site.ask("/runs/1?a=b&c=%22", "GET", site.session(), *LINK)
    assert answer.status == 200
    assert b'content="0; url=/runs/1?a=b&amp;c=%22"' in answer.body
    assert site.passed == []


@pytest.mark.parametrize("change", ["Sec-Fetch-Dest: iframe", "Sec-Fetch-Mode: no-cors", "Origin: http://evil.example"])
def test_what_another_site_loads_without_a_person_who_follows_is_refused(site: Site, change: str) -> None:
    name = change.partition(":")[0]
    headers = [*(header for header in LINK if not header.startswith(f"{name}:")), change]
    assert site.ask("/runs/1", "GET", site.session(), *headers).status == 403
    assert site.ask("/runs/1", "POST", site.session(), JSON, *LINK).status == 403


@pytest.mark.parametrize(
    "path", ["//evil.example/", "/\\evil.example", "//evil.example/%2e%2e", "/%0d%0aSet-Cookie:x=1", "///x"]
)
def test_no_address_leads_a_person_elsewhere(site: Site, path: str) -> None:
    (onward,) = re.findall(r"url=([^\"]*)", site.ask(path, "GET", *LINK).body.decode())
    after = parse_qs(urlsplit(site.ask(path, "GET", "Accept: text/html").header("location")).query).get("next", ["/"])
    for target in (onward, *after):
        assert re.fullmatch(r"/([^/\\\r\n][^\\\r\n]*)?", target), target


# --- what is asked


@pytest.mark.parametrize("path", ["/graphql%0a", "/graphql%0A", "/graphql%0d%0a", "/graphql%00", "/graphql%7f"])
def test_a_control_character_makes_no_other_path_of_graphql(site: Site, path: str) -> None:
    for method in ("GET", "HEAD", "POST"):
        assert site.ask(f"{path}?query=mutation{{x}}", method, HEADER, JSON).status == 400
    assert site.passed == []


@pytest.mark.parametrize("target", ["/graphql?query=mutation{x}", "/graphql?q", "/graphql/?query={version}", "/%67raphql?query=x", "/GraphQL?x", "//graphql?query=x", "/graphql%2f?query=x"])  # fmt: skip
def test_graphql_by_get_is_refused(site: Site, target: str) -> None:
    for who in (HEADER, site.session()):
        for method in ("GET", "HEAD"):
            answer = site.ask(target, method, who)
            assert (answer.status, answer.header("allow")) == (405, "POST")
    assert site.passed == []


def test_the_page_that_asks_graphql_is_shown(site: Site) -> None:
    assert site.ask("/graphql", "GET", HEADER, "Accept: text/html").body == b"inside"


@pytest.mark.parametrize(
    "kind",
    ["", "Content-Type:", "Content-Type: text/plain", "Content-Type: text/plain; application/json", "Content-Type: application/x-www-form-urlencoded", "Content-Type: multipart/form-data; boundary=x", "Content-Type: application/graphql", "Content-Type: application/jsonx", "Content-Type: application/json\r\nContent-Type: text/plain"],
)  # fmt: skip
def test_what_is_posted_must_be_json_on_every_path(site: Site, kind: str) -> None:
    for path in ("/graphql", "/report_asset_materialization/a", "/x"):
        assert site.ask(path, "POST", HEADER, *kind.split("\r\n")[: 2 if kind else 0], body="{}").status == 415
    assert site.passed == []
    assert site.ask("/graphql", "POST", HEADER, "Content-Type: Application/JSON; charset=utf-8", body="{}").status == 200


# --- browsers


def test_a_browser_is_led_to_the_login_and_back(site: Site) -> None:
    first = site.ask("/runs/1?a=b", "GET", "Accept: text/html,*/*")
    assert (first.status, first.header("location")) == (303, "/login?next=%2Fruns%2F1%3Fa%3Db")
    form = site.ask(first.header("location"))
    assert form.status == 200
    assert b'value="/runs/1?a=b"' in form.body
    assert "로그인" in form.body.decode()
    done = site.log_in(target="%2Fruns%2F1%3Fa%3Db")
    assert (done.status, done.header("location")) == (303, "/runs/1?a=b")
    cookie = done.header("set-cookie")
    assert re.fullmatch(
        r"evalvault_[0-9a-f]{12}=[0-9]+\.[0-9a-f]{32}\.[0-9a-f]{64}; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict", cookie
    )
    assert KEY not in cookie
    assert site.ask("/runs/1", "GET", f"Cookie: theirs=1; {cookie.partition(';')[0]}; x=y").body == b"inside"
    again = site.ask("/login?next=/runs/1", "GET", site.session())
    assert (again.status, again.header("location")) == (303, "/runs/1")


def test_a_script_or_a_picture_is_not_led_to_the_login(site: Site) -> None:
    assert site.ask("/favicon.png", "GET", "Accept: text/html,*/*", "Sec-Fetch-Mode: no-cors").status == 401
    assert site.ask("/graphql", "POST", "Accept: text/html", JSON, body="{}").status == 401


@pytest.mark.parametrize("target", ["//evil.example", "/\\evil.example", "http://evil.example", "javascript:alert(1)", "%2F%2Fevil.example", "/%0d%0aX:1", "/a%5cb", "", "/x&next=/y", "%00"])  # fmt: skip
def test_a_login_leads_to_a_path_of_this_server_only(site: Site, target: str) -> None:
    assert site.log_in(target=target).header("location") == "/"
    assert b'value="/"' in site.ask(f"/login?next={target}").body


def test_the_target_is_escaped_in_the_form(site: Site) -> None:
    body = site.ask("/login?next=/%22%3E%3Cscript%3E").body
    assert b"<script" not in body and b"/&quot;&gt;&lt;script&gt;" in body


@pytest.mark.parametrize("key", ["", "wrong", KEY.upper(), f"{KEY}&key={KEY}", "%ff%fe", "\xed\x95\x9c"])
def test_a_wrong_key_in_the_form_opens_no_session(site: Site, key: str) -> None:
    answer = site.log_in(key=key, target="/runs/1")
    assert (answer.status, answer.header("set-cookie")) == (401, "")
    assert "키가 맞지 않습니다" in answer.body.decode()


def test_after_a_wrong_key_the_form_still_knows_the_page_that_was_asked_for(site: Site) -> None:
    assert b'value="/runs/1"' in site.log_in(key="wrong", target="/runs/1").body


@pytest.mark.parametrize(
    "headers",
    [
        ("Origin: http://evil.example",),
        ("Origin: null",),
        ("Sec-Fetch-Site: cross-site",),
        ("Sec-Fetch-Site: none",),
        (),
    ],
)
def test_only_our_own_page_can_log_in_and_out(site: Site, headers: tuple[str, ...]) -> None:
    session = site.session()
    form = "Content-Type: application/x-www-form-urlencoded"
    for path in ("/login", "/logout"):
        answer = site.ask(path, "POST", *headers, form, session, body=f"key={KEY}")
        assert (answer.status, answer.header("set-cookie")) == (403, "")
    assert site.ask("/", "GET", session).status == 200
    assert site.ask("/login", "POST", "Sec-Fetch-Site: same-origin", form, body=f"key={KEY}").status == 303


def test_a_form_that_is_no_form_opens_no_session(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"Origin: {site.origin}"
    assert site.ask("/login", "POST", own, "Content-Type: text/plain", body=f"key={KEY}").status == 403
    assert site.ask("/login", "PUT", own).status == 405
    assert site.log_in(target="/" + "x" * 10_000).status == 401
    assert site.log_in("X: y", target="/&a=1" * 20).status == 401
    monkeypatch.setattr(login, "FORM_SECONDS", 0.1)
    slow = "POST /login HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 900\r\nConnection: close\r\n\r\nkey="
    assert site.raw(slow).status == 401


def test_a_session_ends_by_itself(site: Site) -> None:
    session = site.session()
    site.clock.now += 12 * 3600 - 1
    assert site.ask("/", "GET", session).status == 200
    site.clock.now += 1
    assert site.ask("/", "GET", session).status == 401


def test_who_logs_out_is_out_also_with_a_copy_of_the_cookie(site: Site) -> None:
    session, other = site.session(), site.session()
    assert b"<form" in site.ask("/logout", "GET", session).body
    assert site.ask("/", "GET", session).status == 200, "looking at the page is no log-out"
    form = "Content-Type: application/x-www-form-urlencoded"
    answer = site.ask("/logout", "POST", f"Origin: {site.origin}", form, session)
    assert (answer.status, answer.header("location")) == (303, "/login")
    assert "Max-Age=0" in answer.header("set-cookie")
    assert site.ask("/", "GET", session).status == 401
    assert site.ask("/", "GET", other).status == 200


def test_a_session_of_another_key_or_a_changed_one_is_none(site: Site) -> None:
    name, _, value = site.session().removeprefix("Cookie: ").partition("=")
    until, ident, signature = value.split(".")
    others = Sessions(ApiKey(KEY + "2"), seconds=3600, clock=site.clock)
    forged = [
        others.open(),
        f"{int(until) + 1}.{ident}.{signature}",
        f"{until}.{'0' * 32}.{signature}",
        f"{until}.{ident}.{signature[:-1]}{'0' if signature[-1] != '0' else '1'}",
        f"{until}.{ident}.",
        f"{until}.{ident}",
        f" {value}x",
        "x" * 6000,
        "\xb2.\xff",
    ]
    for token in forged:
        assert site.ask("/", "GET", f"Cookie: {name}={token}").status == 401, token
    assert site.ask("/", "GET", f"Cookie: {others.name}={others.open()}").status == 401
    assert site.ask("/", "GET", f"Cookie: {name}=planted; {name}={value}").status == 200, "a planted cookie logs nobody out"
    assert site.passed != []


# --- who is wrong too often


def test_who_is_wrong_ten_times_in_a_minute_has_to_wait(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="evalvault_pipeline"):
        statuses = [site.ask("/p%0a", "GET", "X-API-Key: Guess-1234", source="127.0.0.7").status for _ in range(10)]
    assert statuses == [401] * 10
    refused = site.ask("/", "GET", HEADER, source="127.0.0.7")
    assert (refused.status, refused.header("retry-after"), refused.error) == (429, "60", "Too Many Requests")
    form = site.log_in(source="127.0.0.7")
    assert (form.status, form.header("retry-after")) == (429, "60")
    assert "60초" in form.body.decode()
    assert site.ask("/", "GET", HEADER, source="127.0.0.8").status == 200, "others are not held up"
    assert site.ask("/", "GET", site.session(), source="127.0.0.7").status == 200, "nor is who is logged in there"
    assert site.ask("/", source="127.0.0.7").status == 401
    site.clock.now += 59.5
    assert site.ask("/", "GET", HEADER, source="127.0.0.7").header("retry-after") == "1"
    site.clock.now += 0.5
    assert site.ask("/", "GET", HEADER, source="127.0.0.7").status == 200
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 10
    assert lines[0] == "a wrong key came from 127.0.0.7 for GET '/p\\n'"
    assert lines[-1].endswith("; the address has to wait 60 s")
    assert "Guess" not in "".join(lines)


def test_a_login_is_logged_without_the_key(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="evalvault_pipeline"):
        site.log_in()
    assert [record.getMessage() for record in caplog.records] == ["a browser at 127.0.0.1 logged in"]


def test_an_address_that_a_client_claims_is_not_believed(site: Site) -> None:
    for number in range(11):
        claimed = site.ask("/", "GET", "X-API-Key: wrong", f"X-Forwarded-For: 10.0.0.{number}", source="127.0.0.9")
    assert claimed.status == 429


def test_behind_a_proxy_that_is_known_its_word_counts() -> None:
    with served(hosts=["eval.example"], proxies="127.0.0.3/32") as site:
        origin, https = "Origin: https://eval.example", "X-Forwarded-Proto: https"
        form = "Content-Type: application/x-www-form-urlencoded"
        logged_in = site.ask("/login", "POST", origin, https, form, body=f"key={KEY}", host="eval.example", source="127.0.0.3")
        assert logged_in.header("set-cookie").endswith("; SameSite=Strict; Secure")
        plain = site.ask(
            "/", "POST", HEADER, JSON, "Origin: http://eval.example", https, host="eval.example", source="127.0.0.3"
        )
        assert plain.status == 403, "a page without TLS is not ours"
        for _ in range(11):
            one = site.ask("/", "GET", "X-API-Key: no", "X-Forwarded-For: 10.0.0.1", host="eval.example", source="127.0.0.3")
        assert one.status == 429
        other = site.ask("/", "GET", HEADER, "X-Forwarded-For: 10.0.0.1, 10.0.0.2", host="eval.example", source="127.0.0.3")
        assert other.status == 200


# --- WebSockets


def websocket(site: Site, *headers: str, host: str = "") -> str:
    """What became of it: what was said back, or the status of the refusal."""
    more = [tuple(header.split(": ", 1)) for header in headers]
    connection = create_connection(("127.0.0.1", site.port))
    try:
        with connect(f"ws://{host or f'127.0.0.1:{site.port}'}/graphql", sock=connection, additional_headers=more) as socket:
            socket.send("hello")
            return str(socket.recv(timeout=10))
    except InvalidStatus as refusal:
        return str(refusal.response.status_code)


def test_a_websocket_needs_the_key_or_a_session_and_our_own_origin(site: Site) -> None:
    own = f"Origin: {site.origin}"
    assert websocket(site) == "403"
    assert websocket(site, own) == "403"
    assert websocket(site, "X-API-Key: wrong") == "403"
    assert site.passed == []
    assert websocket(site, HEADER) == "hello"
    assert websocket(site, HEADER, own) == "hello"
    session = site.session()
    assert websocket(site, session, own) == "hello"
    assert websocket(site, session) == "403"
    for origin in foreign(site):
        assert websocket(site, session, f"Origin: {origin}") == "403", origin
    assert websocket(site, HEADER, "Origin: http://evil.example") == "403"
    assert websocket(site, HEADER, host="evil.example") == "403"
    assert len(site.passed) == 3


def test_a_websocket_ends_with_its_session(site: Site) -> None:
    session = site.session()
    cookie = session.removeprefix("Cookie: ")
    with connect(f"ws://127.0.0.1:{site.port}/graphql", additional_headers={"Cookie": cookie}, origin=site.origin) as socket:  # type: ignore[arg-type]
        socket.send("one")
        assert socket.recv(timeout=10) == "one"
        site.ask("/logout", "POST", f"Origin: {site.origin}", "Content-Type: application/x-www-form-urlencoded", session)
        socket.send("two")
        with pytest.raises(ConnectionClosed) as end:
            socket.recv(timeout=10)
    assert end.value.rcvd is not None and end.value.rcvd.code == 1008


# --- a key that is rotated while it serves

NEXT = "Evalvault-Next-0123456789-abcdef"


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "key"
    file.write_text(KEY, encoding="utf-8")
    monkeypatch.setenv("EVALVAULT_API_KEY_FILE", str(file))
    return file


@pytest.fixture
def rotating(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Reached by others, and its key is read from a file at each request."""
    monkeypatch.setattr(login, "KEY_SECONDS", 0.0)
    with served(login=login_of(load_settings(), ["127.0.0.1", "eval.example"]), hosts=["eval.example"]) as site:
        yield site


def test_a_rotated_key_counts_at_once_and_the_revoked_one_opens_nothing(rotating: Site, key_file: Path) -> None:
    session = rotating.session()
    assert rotating.ask("/", "GET", HEADER).status == rotating.ask("/", "GET", session).status == 200
    key_file.write_text(NEXT, encoding="utf-8")
    assert rotating.ask("/", "GET", HEADER).status == 401
    assert rotating.ask("/", "GET", session).status == 401, "a session of the old key has ended"
    assert rotating.log_in().status == 401
    assert rotating.ask("/", "GET", f"X-API-Key: {NEXT}").status == 200
    assert rotating.log_in(key=NEXT).status == 303


@pytest.mark.parametrize("by", ["key", "session"])
def test_a_websocket_ends_with_its_key(rotating: Site, key_file: Path, by: str) -> None:
    name, _, value = (HEADER if by == "key" else rotating.session()).partition(": ")
    with connect(f"ws://127.0.0.1:{rotating.port}/graphql", additional_headers={name: value}, origin=rotating.origin) as socket:  # type: ignore[arg-type]
        socket.send("one")
        assert socket.recv(timeout=10) == "one"
        key_file.write_text(NEXT, encoding="utf-8")
        socket.send("two")
        with pytest.raises(ConnectionClosed) as end:
            socket.recv(timeout=10)
    assert end.value.rcvd is not None and end.value.rcvd.code == 1008


@pytest.mark.parametrize("text", ["", "short", "two\tparts-of-0123456789", None])
def test_a_key_that_is_gone_or_too_short_opens_nothing(
    rotating: Site, key_file: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    session = rotating.session()
    passed = len(rotating.passed)
    if text is None:
        key_file.unlink()
    else:
        key_file.write_text(text, encoding="utf-8")
    for headers in ((), (HEADER,), (f"X-API-Key: {text}",), ("X-API-Key:",), (session,)):
        answer = rotating.ask("/", "GET", *headers)
        assert (answer.status, answer.error) == (503, "The key of this server cannot be read. Its log says why.")
    assert rotating.log_in().status == 503
    assert websocket(rotating, HEADER) == "403"
    assert rotating.ask("/healthz").status == 200
    assert len(rotating.passed) == passed
    assert len([record for record in caplog.records if "EVALVAULT_API_KEY" in record.getMessage()]) == 1
    key_file.write_text(KEY, encoding="utf-8")
    assert rotating.ask("/", "GET", HEADER).status == rotating.ask("/", "GET", session).status == 200


def test_a_key_is_read_again_after_a_few_seconds_only() -> None:
    reads: list[int] = []

    def read() -> ApiKey:
        reads.append(1)
        return ApiKey(KEY)

    clock = Clock()
    with served(login=Login(read, ticks=clock)) as site:
        for _ in range(3):
            assert site.ask("/", "GET", HEADER).status == 200
        assert len(reads) == 1
        clock.now += login.KEY_SECONDS
        assert site.ask("/", "GET", HEADER).status == 200
        assert len(reads) == 2


# --- without a key, for this machine alone


def test_without_a_key_this_machine_is_served_and_no_other_site(open_site: Site) -> None:
    site = open_site
    assert site.ask("/").body == b"inside"
    assert site.ask("/graphql", "POST", JSON, f"Origin: {site.origin}", body="{}").body == b"inside"
    passed = len(site.passed)
    assert site.ask("/graphql?query=mutation{x}").status == 405
    assert site.ask("/graphql", "POST", "Content-Type: text/plain", body="{}").status == 415
    assert site.ask("/", host="evil.example").status == 421
    for header in "Forwarded Via X-Real-IP CF-Connecting-IP".split():
        assert site.ask("/", "GET", f"{header}: 10.0.0.1").status == 403, header
    for what in "For Host Port Proto Server".split():
        assert site.ask("/", "GET", f"X-Forwarded-{what}: 443").status == 403, what
    for origin in foreign(site):
        assert site.ask("/graphql", "POST", JSON, f"Origin: {origin}", body="{}").status == 403
        assert websocket(site, f"Origin: {origin}") == "403"
    assert websocket(site) == "403"
    assert len(site.passed) == passed
    assert websocket(site, f"Origin: {site.origin}") == "hello"
