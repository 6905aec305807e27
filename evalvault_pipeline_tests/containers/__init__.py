"""The image built and the stack brought up for real, where no registry of images can be reached: `make test-containers`.

`engine` unpacks a Docker engine from Debian's packages, `base_image` makes a stand-in for python:3.12-slim, `images` builds ours
and stand-ins for Postgres and Ollama, `stack` brings docker-compose.yaml up and checks it. Not collected by pytest.
"""
