# A Dask worker or scheduler, and every prescore command: the base install and the extra [materialize].
# Build from the repository's root: docker build -f infra/images/worker.Dockerfile -t prescore-worker .
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/prescore
WORKDIR /source
COPY requirements.lock infra/images/worker.lock ./
RUN /opt/prescore/bin/pip install --no-deps --require-hashes -r worker.lock
# The build backend comes from the lock as well, in an environment that is left behind.
RUN sed -n '/^setuptools==/,/[^\\]$/p' requirements.lock > build.lock \
 && pip install --no-deps --require-hashes -r build.lock
COPY pyproject.toml LICENSE README.md ./
COPY features features
COPY materialize materialize
COPY serving_lookup serving_lookup
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/prescore/bin/pip install --no-deps /wheels/prescore-*.whl

FROM python:3.11-slim-bookworm
# Numba's OpenMP layer; without it, it falls back to one that is not safe with several threads.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home prescore \
 && install -d -o prescore -g prescore /var/lib/prescore /var/cache/prescore /warehouse
COPY --from=build /opt/prescore /opt/prescore
COPY infra/images/entrypoint.sh /usr/local/bin/entrypoint
ENV PATH=/opt/prescore/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/var/cache/prescore \
    NUMBA_NUM_THREADS=1 \
    PRESCORE_HOME=/var/lib/prescore \
    PRESCORE_WAREHOUSE=/warehouse \
    PRESCORE_SETTINGS=/etc/prescore/prescore.toml
USER prescore
WORKDIR /var/lib/prescore
EXPOSE 8788
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8788/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sh", "/usr/local/bin/entrypoint"]
# One thread per process: the scorer's kernels use a core each, and a lost process costs one block.
CMD ["sh", "-c", "exec dask worker \"$DASK_SCHEDULER_ADDRESS\" --nworkers \"${DASK_WORKERS:-auto}\" --nthreads 1 --memory-limit \"${DASK_MEMORY_LIMIT:-2GB}\" --dashboard-address :8788 --local-directory /tmp"]
