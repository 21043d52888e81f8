# One image for server and worker: the server by default, the worker with the command `python -m worker`.
FROM python:3.11-slim

RUN useradd --create-home --uid 10001 keepsight \
    && install -d -o keepsight -g keepsight /data/store /data/spool /data/keys /home/keepsight/.cache

WORKDIR /opt/keepsight

# Dependencies first: they change less often than the code.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']))" > requirements.txt \
    && pip install --no-cache-dir --requirement requirements.txt --constraint constraints.txt

COPY README.md LICENSE ./
COPY segp_cl segp_cl
COPY model_store model_store
COPY app app
COPY worker worker
COPY keepsight keepsight
COPY benchmarks benchmarks
RUN pip install --no-cache-dir --no-deps .

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
CMD ["python", "-m", "app"]
