#!/usr/bin/env bash
# Write comment.md as the pull request's comment: over the one that begins with the same marker, where there is one.
# Needs GH_TOKEN with `pull-requests: write`, and PULL_REQUEST, its number.
set -euo pipefail
MARKER=$(head -n 1 comment.md)
export MARKER
comments="repos/$GITHUB_REPOSITORY/issues/$PULL_REQUEST/comments"
found=$(gh api --paginate "$comments" \
  --jq '.[] | select(.user.type == "Bot" and (.body | startswith(env.MARKER))) | .id')
if [ -n "$found" ]; then
  gh api --silent --method PATCH "repos/$GITHUB_REPOSITORY/issues/comments/${found%%$'\n'*}" --field body=@comment.md
else
  gh api --silent --method POST "$comments" --field body=@comment.md
fi
