# One image for server and worker: the server by default, the worker with the command `python -P -m worker`.
# The digest fixes the base image; scripts/pin-images writes the newest one of the tag.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
FROM ${PYTHON_IMAGE}

RUN useradd --create-home --uid 10001 keepsight \
    && install -d -o keepsight -g keepsight /data/store /data/spool /data/keys /home/keepsight/.cache

WORKDIR /opt/keepsight

# Dependencies first: they change less often than the code. Every file must have one of the hashes in the lock file.
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock

# Which files these are is decided in .dockerignore. The build uses the locked setuptools, and downloads nothing.
COPY . ./
RUN pip install --no-cache-dir --no-deps --no-build-isolation ./keepsight/client . && pip check

USER keepsight
WORKDIR /data
ENV PYTHONUNBUFFERED=1 \
    KEEPSIGHT_HOST=0.0.0.0 \
    KEEPSIGHT_PORT=8000 \
    KEEPSIGHT_STORE=/data/store \
    KEEPSIGHT_SPOOL=/data/spool \
    KEEPSIGHT_KEYS_FILE=/data/keys/keys.json
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"KEEPSIGHT_PORT\"]}/healthz', timeout=4)"]
CMD ["python", "-P", "-m", "app"]
