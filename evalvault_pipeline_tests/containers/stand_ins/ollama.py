#!/opt/evalvault/bin/python
"""`ollama serve|list|show|pull` over the tests' double. A model that was pulled is an empty file in OLLAMA_MODELS."""

import os
import sys
import time
import urllib.request
from pathlib import Path

MODELS = Path(os.environ["OLLAMA_MODELS"])
PORT = int(os.environ["OLLAMA_HOST"].rpartition(":")[2])


def serve() -> None:
    from evalvault_pipeline_tests.doubles.ollama_server import OllamaServer

    found = [file.name for file in MODELS.iterdir()]
    with OllamaServer(port=PORT, models=found) if found else OllamaServer(port=PORT):
        print("serving", found, flush=True)
        while True:
            time.sleep(3600)


command, *names = sys.argv[1:]
if command == "serve":
    serve()
elif command == "list":
    print(urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api/tags", timeout=5).read().decode())
elif command == "show":
    sys.exit(0 if (MODELS / names[0]).exists() else 1)
elif command == "pull":
    print("pulled", names[0])
    (MODELS / names[0]).touch()
