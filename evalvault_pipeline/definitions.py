"""What Dagster loads (workspace.yaml): the code location for these settings and this catalog."""

from __future__ import annotations

from evalvault_pipeline.cases.catalog import load_catalog
from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline.defs.build import build_definitions
from evalvault_pipeline.logs import know_secrets, redact_output
from evalvault_pipeline.settings import load_settings

_settings = load_settings()
know_secrets(_settings.secrets)
redact_output(redacted)
defs = build_definitions(_settings, load_catalog(_settings.catalog))
