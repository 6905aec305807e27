# Two images from one base: `evalvault`, which is every command of ours, and `phoenix` (--target phoenix). docs/deployment.md
# tells how they are run. A digest fits where the tag is: --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.12-slim-trixie

# What builds: uv, and the back ends of the packages that come as source. Nothing of it is in an image.
FROM ${PYTHON_IMAGE} AS tools
COPY requirements-build.lock /build/
ENV PIP_CACHE_DIR=/var/cache/build/pip UV_CACHE_DIR=/var/cache/build/uv
RUN --mount=type=cache,target=/var/cache/build \
    python -m venv /build/tools \
    && /build/tools/bin/python -m pip install --no-deps --require-hashes -r /build/requirements-build.lock
ENV PATH=/build/tools/bin:$PATH UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /build

# The locked packages first: a change of our code does not fetch them again.
FROM tools AS evalvault-build
COPY requirements-image.lock ./
RUN --mount=type=cache,target=/var/cache/build \
    python3 -m venv --without-pip /opt/evalvault \
    && uv pip install --python /opt/evalvault/bin/python --no-deps --require-hashes \
        --build-constraints requirements-build.lock -r requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY evalvault_pipeline evalvault_pipeline
RUN --mount=type=cache,target=/var/cache/build \
    uv pip install --python /opt/evalvault/bin/python --no-deps --build-constraints requirements-build.lock .

FROM tools AS phoenix-build
COPY requirements-phoenix.lock ./
RUN --mount=type=cache,target=/var/cache/build \
    python3 -m venv --without-pip /opt/phoenix \
    && uv pip install --python /opt/phoenix/bin/python --no-deps --require-hashes \
        --build-constraints requirements-build.lock -r requirements-phoenix.lock

# What runs: the base without pip, and a user who owns nothing but the folders that volumes are mounted on.
FROM ${PYTHON_IMAGE} AS runtime
RUN find /usr/local \( -path '*/site-packages/pip*' -o -path '*/ensurepip' -o -path '/usr/local/bin/pip*' \) -prune \
        -exec rm -rf {} + \
    && groupadd --gid 10001 evalvault \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin evalvault
ENV HOME=/tmp USER=evalvault LANG=C.UTF-8 PYTHONUNBUFFERED=1

FROM runtime AS phoenix
RUN install -d -o 10001 -g 10001 /data
COPY --from=phoenix-build /opt/phoenix /opt/phoenix
COPY deploy/start_phoenix.py /opt/start_phoenix.py
ENV PATH=/opt/phoenix/bin:$PATH PHOENIX_WORKING_DIR=/data PHOENIX_HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
EXPOSE 6006
HEALTHCHECK --start-period=180s --interval=15s --timeout=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:6006/healthz', timeout=8)"]
ENTRYPOINT ["python", "/opt/start_phoenix.py"]

FROM runtime AS evalvault
# pg_dump and pg_restore for `evalvault backup`; never older than the server (POSTGRES_IMAGE in docker-compose.yaml).
ARG POSTGRES_CLIENT=postgresql-client-17
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ${POSTGRES_CLIENT} \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 /app/data /models
COPY --from=evalvault-build /opt/evalvault /opt/evalvault
COPY deploy/dagster.yaml /opt/dagster/dagster.yaml
COPY deploy/workspace.yaml /app/workspace.yaml
ENV PATH=/opt/evalvault/bin:$PATH DAGSTER_HOME=/opt/dagster EVALVAULT_PROFILE=prod
USER 10001:10001
WORKDIR /app
EXPOSE 3000 4000 9464
# That the program starts; docker-compose.yaml asks each server what it answers.
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s CMD ["evalvault", "version"]
CMD ["evalvault", "--help"]
