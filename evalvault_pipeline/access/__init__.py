"""Who may come in: the key, sessions of browsers, and the guard around the Dagster webserver (docs/access.md)."""
