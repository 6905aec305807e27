"""3. What it means: pass rate, coverage, intervals."""
