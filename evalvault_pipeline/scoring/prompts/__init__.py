"""Judge prompts in other languages than ragas's English, as data: one TOML file a language, with its version.

The instruction asks for the same task on the same scale; the few-shot examples are our own.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.resources import files
from typing import Any

FILES = {"ko": "korean.toml"}


@lru_cache
def load_prompts(language: str) -> dict[str, Any]:
    """Prompt name -> instruction and examples, and `version`; empty for a language whose prompts are ragas's own."""
    if language not in FILES:
        return {}
    return tomllib.loads((files(__name__) / FILES[language]).read_text(encoding="utf-8"))


def prompt_version(language: str) -> str:
    """The version of a language's prompts; empty for ragas's own."""
    return str(load_prompts(language).get("version", ""))
