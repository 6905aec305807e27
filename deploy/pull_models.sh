#!/bin/sh
# The models of the profile, fetched into the volume that `ollama` serves them from; what is there already is left as it is.
# Runs in a container of its own, so that the one that serves needs no way to the outside (docker-compose.yaml).
set -eu
case "${EVALVAULT_PROFILE:-prod}" in
  prod) judge=gpt-oss-safeguard:20b embedding=qwen3-embedding:8b ;;
  dev) judge=gemma3:1b embedding=qwen3-embedding:0.6b ;;
  *) echo "profile $EVALVAULT_PROFILE needs no model of Ollama"; exit 0 ;;
esac
ollama serve &
server=$!
trap 'kill "$server"' EXIT
until ollama list >/dev/null 2>&1; do
  kill -0 "$server"
  sleep 1
done
for model in "${EVALVAULT_JUDGE_MODEL:-$judge}" "${EVALVAULT_EMBEDDING_MODEL:-$embedding}"; do
  if ollama show "$model" >/dev/null 2>&1; then
    echo "$model is there"
  else
    ollama pull "$model"
  fi
done
