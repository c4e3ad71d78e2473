# Faregate in a slim image: no compiler, no root. Build: docker build -t faregate .
FROM python:3.13-slim AS build
WORKDIR /build
COPY requirements.lock pyproject.toml README.md ./
RUN python -m venv /opt/faregate \
 && /opt/faregate/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
COPY src ./src
RUN /opt/faregate/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/faregate --create-home faregate \
 && install -d -o faregate -g faregate -m 700 /var/lib/faregate/data
COPY --from=build /opt/faregate /opt/faregate
ENV PATH=/opt/faregate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FAREGATE_SERVER__HOST=0.0.0.0 \
    FAREGATE_DATA_DIR=/var/lib/faregate/data
USER faregate
WORKDIR /var/lib/faregate
VOLUME /var/lib/faregate/data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health/ready', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["faregate"]
CMD ["serve"]
