# Airflow with the DAGs, and beside it the prescore command that its tasks run: [materialize] and [airflow].
# Build from the repository's root: docker build -f infra/images/airflow.Dockerfile -t prescore-airflow .
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/prescore
WORKDIR /source
COPY requirements.lock infra/images/airflow.lock ./
RUN /opt/prescore/bin/pip install --no-deps --require-hashes -r airflow.lock
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
 && install -d -o prescore -g prescore /var/lib/prescore /var/cache/prescore /warehouse /opt/airflow /opt/airflow/logs
COPY --from=build /opt/prescore /opt/prescore
COPY dags /opt/prescore/dags
COPY infra/images/entrypoint.sh /usr/local/bin/entrypoint
ENV PATH=/opt/prescore/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/var/cache/prescore \
    PRESCORE_HOME=/var/lib/prescore \
    PRESCORE_WAREHOUSE=/warehouse \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/prescore/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    PRESCORE_SETTINGS=/etc/prescore/prescore.toml
USER prescore
WORKDIR /opt/airflow
EXPOSE 8080
# The API server's; compose.yaml names another one for each other component.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=5 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/api/v2/monitor/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sh", "/usr/local/bin/entrypoint"]
CMD ["airflow", "api-server", "--port", "8080"]
