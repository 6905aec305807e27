#!/bin/sh
# Write the secrets that docker-compose.yaml mounts, one file each: random ones of ours, empty ones for keys that you have.
# A file that exists is left as it is. The folder is yours alone; containers run as other users and read the files in it.
set -eu
folder="${EVALVAULT_SECRETS:-$(dirname "$0")/../secrets}"
umask 077
mkdir -p "$folder"
random() { # an upper-case letter, a small one and a digit are asked for by Phoenix
  printf 'aA1%s' "$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')"
}
for name in postgres_password evalvault_api_key phoenix_secret phoenix_admin_secret phoenix_admin_password; do
  [ -e "$folder/$name" ] || random >"$folder/$name"
done
for name in openai_api_key slack_webhook_url; do
  [ -e "$folder/$name" ] || : >"$folder/$name"
done
chmod 644 "$folder"/*
echo "$folder"
