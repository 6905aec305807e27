"""When a key is needed, and who has to wait."""

from __future__ import annotations

import pytest

from evalvault_pipeline.access.keys import ApiKey, Failures, required_key
from evalvault_pipeline.errors import InvalidSetting
from evalvault_pipeline_tests.access.served import KEY, Clock

OPEN = ["0.0.0.0", "::", "", "10.0.0.5", "eval.example", "localhost.evil.example", "127.0.0.1.evil.example", "::ffff:10.0.0.1"]


@pytest.mark.parametrize("host", OPEN)
@pytest.mark.parametrize("key", [None, "", "x", KEY[:23]])
def test_what_others_can_reach_needs_a_key_of_24_characters(host: str, key: str | None) -> None:
    with pytest.raises(InvalidSetting, match=r"EVALVAULT_API_KEY to at least 24 characters") as refusal:
        required_key(key, host=host, what="The Dagster UI")
    assert refusal.value.exit_code == 2
    assert KEY[:23] not in str(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_this_machine_is_served_without_a_key_and_with_any(host: str) -> None:
    assert required_key(None, host=host, what="It") is None
    assert required_key("", host=host, what="It") is None
    short = required_key("x", host=host, what="It")
    assert short is not None
    assert (short.matches(b"x"), short.matches(b"X"), short.matches(b"")) == (True, False, False)


def test_a_key_of_24_characters_is_enough() -> None:
    key = required_key(KEY[:24], host="0.0.0.0", what="It")
    assert key is not None
    assert key.matches(KEY[:24].encode())


def test_there_is_no_empty_key() -> None:
    with pytest.raises(ValueError, match="everybody"):
        ApiKey("")


def test_what_is_derived_from_a_key_differs_by_purpose_and_by_key() -> None:
    derived = {ApiKey(key).derived(purpose) for key in (KEY, KEY.upper()) for purpose in ("session", "cookie")}
    assert len(derived) == 4


def test_an_ipv6_address_counts_with_its_network_of_64_bits() -> None:
    failures = Failures(most=2, clock=Clock())
    for address in ("2001:db8::1", "2001:db8::2"):
        failures.note(address)
    assert failures.wait("2001:db8::ffff:3") == 60
    assert failures.wait("2001:db8:0:1::1") == 0
    for _ in range(2):
        failures.note("::ffff:10.0.0.1")
    assert failures.wait("10.0.0.1") == 60


def test_failures_are_forgotten_a_minute_after_the_first() -> None:
    clock = Clock()
    failures = Failures(most=3, clock=clock)
    for _ in range(2):
        failures.note("10.0.0.1")
    clock.now += 60
    failures.note("10.0.0.1")
    assert failures.wait("10.0.0.1") == 0


def test_only_the_newest_addresses_are_kept_whatever_a_proxy_calls_them() -> None:
    failures = Failures(most=1, addresses=100, clock=Clock())
    failures.note("10.0.0.1")
    for number in range(100):
        failures.note(f"client-{number}" + "x" * 10_000)
    assert failures.wait("10.0.0.1") == 0
    assert failures.wait("client-99" + "x" * 10_000) == 60
    assert len(failures._counts) == 100
    assert max(map(len, failures._counts)) == 100
