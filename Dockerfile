# `viewfold serve` in a container; how to run it, and why it asks for a token: docs/docker.md.
FROM python:3.11-slim

# Where the CPU build of PyTorch is, which has no CUDA libraries; for an NVIDIA GPU: --build-arg PIP_EXTRA_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

RUN useradd --create-home --uid 1000 viewfold && mkdir /app /data && chown viewfold /app /data
WORKDIR /app
USER viewfold

# What scripts/setup reads comes first, so that a change in the code does not install everything again.
COPY --chown=viewfold pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=viewfold scripts ./scripts
COPY --chown=viewfold src/viewfold/__init__.py ./src/viewfold/
RUN PIP_NO_CACHE_DIR=1 scripts/setup
COPY --chown=viewfold . .

ENV PATH=/app/.venv/bin:$PATH
VOLUME /data
EXPOSE 8420
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8420/healthz', timeout=3)"]
CMD ["viewfold", "serve", "--host", "0.0.0.0", "--port", "8420", "--data", "/data"]
