"""Typed configuration that assets ask for by argument name; each vends a plain object.

Secrets are not held here: they are read where they are used.
"""

import dagster as dg

from evalvault_pipeline.publishing.phoenix import PhoenixAccess
from evalvault_pipeline.scoring.judges import judge_spec
from evalvault_pipeline.scoring.providers import JudgeAccess
from evalvault_pipeline.secrets import is_set
from evalvault_pipeline.settings import load_settings
from evalvault_pipeline.tracking import phoenix_access


class ScoreStoreResource(dg.ConfigurableResource[str]):
    """Where scores are kept: EVALVAULT_STORE_URL, read where it is used since it may hold a password; else `default_url`."""

    default_url: str

    def create_resource(self, context: dg.InitResourceContext) -> str:
        settings = load_settings()
        return settings.score_store_url if is_set("EVALVAULT_STORE_URL", settings) else self.default_url


class PhoenixResource(dg.ConfigurableResource[PhoenixAccess | None]):
    """The Phoenix server, None where it is off. The token is read from the settings where used."""

    enabled: bool = False
    endpoint: str

    def create_resource(self, context: dg.InitResourceContext) -> PhoenixAccess | None:
        return phoenix_access(load_settings()) if self.enabled else None


class JudgeResource(dg.ConfigurableResource[JudgeAccess]):
    """Who scores the LLM metrics. `judge` is what the UI shows; keys and addresses are read from the settings where used."""

    profile: str
    judge: str = "none"

    def create_resource(self, context: dg.InitResourceContext) -> JudgeAccess:
        settings = load_settings(EVALVAULT_PROFILE=self.profile)
        return JudgeAccess(profile=self.profile, spec=judge_spec(settings))
