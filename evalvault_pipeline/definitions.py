"""What Dagster loads (workspace.yaml): the code location for these settings and this catalog."""

from __future__ import annotations

import warnings

from evalvault_pipeline.cases.catalog import load_catalog
from evalvault_pipeline.cases.redaction import redacted
from evalvault_pipeline.defs.build import build_definitions
from evalvault_pipeline.logs import configure_logging, redact_output
from evalvault_pipeline.settings import load_settings

_settings = load_settings()
redact_output(redacted)
try:
    configure_logging(file_only="evalvault_pipeline", redact=redacted, **_settings.log_file_options)
except OSError as _error:
    warnings.warn(f"{_settings.logs} cannot be written ({_error.strerror}): set EVALVAULT_LOG_FILE", stacklevel=1)
defs = build_definitions(_settings, load_catalog(_settings.catalog))
