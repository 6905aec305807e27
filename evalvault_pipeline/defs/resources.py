"""Typed configuration that assets ask for by argument name; each vends a plain object.

Secrets are not held here: they are read where they are used.
"""

import dagster as dg

from evalvault_pipeline.settings import PROFILES, Profile, ProfileName, load_settings


class ScoreStoreResource(dg.ConfigurableResource[str]):
    """Where scores are kept. The UI shows `url`, so one with a password is left out and read from the settings instead."""

    url: str | None = None

    def create_resource(self, context: dg.InitResourceContext) -> str:
        return self.url or load_settings().score_store_url


class JudgeResource(dg.ConfigurableResource[Profile]):
    """Who scores the LLM metrics."""

    profile: str

    def create_resource(self, context: dg.InitResourceContext) -> Profile:
        name: ProfileName = self.profile  # type: ignore[assignment]  # checked by Settings
        return PROFILES[name]
