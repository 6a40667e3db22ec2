# The builder installs the pinned packages, then this project's wheel; the image takes the finished environment alone.
FROM python:3.13-slim AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /src

COPY requirements-image.lock requirements-build.lock ./
RUN python -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install --no-deps --require-hashes -r requirements-image.lock \
    && python -m venv /opt/build \
    && /opt/build/bin/python -m pip install --no-deps --require-hashes -r requirements-build.lock

COPY pyproject.toml LICENSE ./
COPY app app
COPY migrations migrations
RUN /opt/build/bin/python -m hatchling build -t wheel -d /opt/dist \
    && /opt/venv/bin/python -m pip install --no-deps --no-index /opt/dist/*.whl \
    && /opt/venv/bin/python -m pip uninstall --yes pip


FROM python:3.13-slim

# A volume that is mounted at /srv/files for the first time takes over this folder's owner.
RUN useradd --system --uid 10001 --home-dir /srv --shell /usr/sbin/nologin framehook \
    && install --directory --owner=10001 --group=10001 --mode=0700 /srv/files

COPY --from=builder /opt/venv /opt/venv

# Result files are kept only where somebody says: without a volume they would be gone with the container.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FRAMEHOOK_HOST=0.0.0.0 \
    FRAMEHOOK_ARCHIVE_URL=off

# A number rather than a name, so that a cluster can see that it is not root.
USER 10001
WORKDIR /srv
EXPOSE 8000
STOPSIGNAL SIGTERM

# The answer must come from this container, so a proxy in the environment is passed over.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('FRAMEHOOK_PORT', '8000') + '/healthz', timeout=4)"]

CMD ["framehook", "serve"]
