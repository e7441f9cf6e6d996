# The look-up service: the base install, without Airflow, Dask, Feast, pandas and XGBoost.
# Build from the repository's root: docker build -f infra/images/lookup.Dockerfile -t prescore-lookup .
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/prescore
WORKDIR /source
COPY requirements.lock infra/images/lookup.lock ./
RUN /opt/prescore/bin/pip install --no-deps --require-hashes -r lookup.lock
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
    PRESCORE_HOME=/var/lib/prescore \
    PRESCORE_WAREHOUSE=/warehouse \
    PRESCORE_SETTINGS=/etc/prescore/prescore.toml
USER prescore
WORKDIR /var/lib/prescore
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health/ready', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sh", "/usr/local/bin/entrypoint"]
CMD ["sh", "-c", "exec prescore --settings \"$PRESCORE_SETTINGS\" serve --host 0.0.0.0 --port 8080"]
