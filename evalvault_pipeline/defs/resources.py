"""Typed configuration that assets ask for by argument name; each vends a plain object.

Secrets are not held here: they are read where they are used.
"""

import dagster as dg

from evalvault_pipeline.settings import PROFILES, Profile, ProfileName


class ScoreStoreResource(dg.ConfigurableResource[str]):
    """Where scores are kept. `url` without a password; with one, set EVALVAULT_STORE_URL and leave this empty."""

    url: str

    def create_resource(self, context: dg.InitResourceContext) -> str:
        return self.url


class JudgeResource(dg.ConfigurableResource[Profile]):
    """Who scores the LLM metrics."""

    profile: str

    def create_resource(self, context: dg.InitResourceContext) -> Profile:
        name: ProfileName = self.profile  # type: ignore[assignment]  # checked by Settings
        return PROFILES[name]
