#!/usr/bin/env bash
# Download the results of the last successful evaluation of main, and tell later steps where they are.
# Needs GH_TOKEN with `actions: read`, and EVALVAULT_PROFILE: the baseline was scored by the same judge.
set -euo pipefail
run=$(gh run list --repo "$GITHUB_REPOSITORY" --workflow evaluation.yaml --branch main --status success --limit 1 \
  --json databaseId --jq '.[0].databaseId // empty')
file="baseline/$EVALVAULT_PROFILE.json"
if [ -z "$run" ]; then
  echo "::notice title=No baseline::evaluation.yaml has not succeeded on main yet; only the minimum is checked."
elif gh run download "$run" --repo "$GITHUB_REPOSITORY" --name baseline-results --dir baseline && [ -f "$file" ]; then
  echo "file=$file" >>"$GITHUB_OUTPUT"
else
  echo "::warning title=No baseline::run $run of evaluation.yaml holds no $file any more; only the minimum is checked."
fi
