"""Tokens, money and budgets of a run.

Prices come from genai-prices, which is bundled data; a model that it does not know has no price, never a guess.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from evalvault_pipeline.errors import InvalidSetting
from evalvault_pipeline.settings import BUDGET

PRICED_TOKENS = 1000  # prices are linear in the tokens of a call of this length


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per token."""

    input: float
    cached: float
    output: float

    def of(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        fresh = prompt_tokens - cached_tokens
        return fresh * self.input + cached_tokens * self.cached + completion_tokens * self.output


@lru_cache
def price_of(provider: str, model: str) -> Price | None:
    """The price of a model; None where it is not known. Local models have none."""
    if provider != "openai":
        return None
    from genai_prices import Usage, calc_price

    def dollars(usage: Usage) -> float:
        return float(calc_price(usage, model_ref=model, provider_id="openai").total_price) / PRICED_TOKENS

    try:
        return Price(
            input=dollars(Usage(input_tokens=PRICED_TOKENS)),
            cached=dollars(Usage(input_tokens=PRICED_TOKENS, cache_read_tokens=PRICED_TOKENS)),
            output=dollars(Usage(output_tokens=PRICED_TOKENS)),
        )
    except (LookupError, ValueError):
        return None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run may spend: dollars or tokens, the other one is infinite."""

    dollars: float = math.inf
    tokens: float = math.inf

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`5USD`, `500ktok`, `2Mtok`. Raises InvalidSetting."""
        found = BUDGET.fullmatch(text.strip())
        if found is None:
            raise InvalidSetting(
                f"`{text}` is no budget. Write an amount and USD, tok, ktok or Mtok, such as --budget 5USD or --budget 2Mtok."
            )
        amount, unit = float(found["amount"]), found["unit"].lower()
        if unit == "usd":
            return cls(dollars=amount)
        return cls(tokens=amount * {"tok": 1, "ktok": 1e3, "mtok": 1e6}[unit])

    def __str__(self) -> str:
        return f"{self.dollars:g} USD" if self.dollars < math.inf else f"{self.tokens:,.0f} tokens"


UNLIMITED = Budget()


class Spending:
    """What a run has spent and what its calls in flight may still cost, held against the budget."""

    def __init__(self, budget: Budget, chat: Price | None, embedding: Price | None, *, unpriced: str = "") -> None:
        """`unpriced` names the model that has no price. Raises InvalidSetting where the budget is in dollars."""
        if budget.dollars < math.inf and unpriced:
            raise InvalidSetting(
                f"The price of {unpriced} is not known, so a budget in USD cannot be kept. Give it in tokens: --budget 2Mtok."
            )
        self.budget = budget
        self.chat_price = chat
        self.embedding_price = embedding
        self.calls = self.embedding_calls = 0
        self.prompt_tokens = self.completion_tokens = self.embedding_tokens = 0
        self.dollars = 0.0
        self._reserved_tokens = self._reserved_dollars = 0.0
        self._longest_answer = 256
        self.spent = False

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens + self.embedding_tokens

    @property
    def exceeded(self) -> bool:
        """Answers were longer than expected: what is set aside, and not sent yet, is not to be had any more."""
        return self._breaks(0.0, 0.0)

    def reserve(self, prompt_bytes: int, replies: int = 1) -> tuple[float, float] | None:
        """Tokens and dollars that a call may take, set aside until `settle`; None where they might break the budget.

        Three bytes a token is more tokens than a text has; an answer is taken to be as long as the longest so far. Where only
        what is set aside stands in the way, it may fit when other calls are settled; else the budget is `spent`, for good.
        """
        if self.spent:
            return None
        if self.budget == UNLIMITED:
            return 0.0, 0.0
        prompt, answer = prompt_bytes / 3, replies * self._longest_answer
        price = self.chat_price
        tokens, dollars = prompt + answer, prompt * price.input + answer * price.output if price else 0.0
        if self._breaks(tokens + self._reserved_tokens, dollars + self._reserved_dollars):
            self.spent = self._breaks(tokens, dollars)
            return None
        self._reserved_tokens += tokens
        self._reserved_dollars += dollars
        return tokens, dollars

    def _breaks(self, tokens: float, dollars: float) -> bool:
        return self.tokens + tokens > self.budget.tokens or self.dollars + dollars > self.budget.dollars

    def settle(self, reserved: tuple[float, float]) -> None:
        """The call is over: what it really took was told by `add_call` or `add_embedding`."""
        self._reserved_tokens -= reserved[0]
        self._reserved_dollars -= reserved[1]

    def add_call(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int, replies: int) -> float | None:
        """A chat call's tokens; its cost in dollars, None where the price is not known."""
        self.calls += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self._longest_answer = max(self._longest_answer, completion_tokens // max(replies, 1))
        if self.chat_price is None:
            return None
        cost = self.chat_price.of(prompt_tokens, completion_tokens, cached_tokens)
        self.dollars += cost
        return cost

    def add_embedding(self, tokens: int) -> float | None:
        """An embedding call's tokens; its cost in dollars, None where the price is not known."""
        self.embedding_calls += 1
        self.embedding_tokens += tokens
        if self.embedding_price is None:
            return None
        cost = self.embedding_price.of(tokens, 0)
        self.dollars += cost
        return cost
