# The server. From the top of the repository:
#
#   docker build -f deploy/server.Dockerfile -t afarensis-server:<version> .
#
# It keeps everything in the volume /data and serves gRPC on port 50051, unencrypted: publish it to the machine itself, or
# put a proxy before it that encrypts and authenticates. Sessions are containers beside it: see deploy/compose.yaml.
#
# BASE_IMAGE: any image with glibc and a Python 3.11 or newer that has venv.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /build
COPY requirements/server.txt requirements/build.txt ./
RUN python3 -m venv /build/tools \
    && /build/tools/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r build.txt \
    && python3 -m venv /opt/afarensis \
    && /opt/afarensis/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r server.txt
COPY clients/python clients/python
COPY server server
# Built with pinned tools alone: hatchling's hooks need nothing but what is in there.
RUN for package in clients/python server; do (cd $package && /build/tools/bin/hatchling build -t wheel -d /build/wheels); done \
    && /opt/afarensis/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --no-index /build/wheels/*.whl \
    && /opt/afarensis/bin/python -m pip uninstall --quiet --yes pip setuptools

FROM ${BASE_IMAGE}
ARG VERSION=unknown
LABEL org.opencontainers.image.title="Afarensis server" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/afarensis /opt/afarensis
RUN mkdir /data && chown 65532:65532 /data
ENV PATH=/opt/afarensis/bin:$PATH \
    AFARENSIS_SERVER_DATA_DIR=/data \
    AFARENSIS_SERVER_LISTEN=0.0.0.0:50051 \
    AFARENSIS_SERVER_INSECURE_BIND=true \
    AFARENSIS_SANDBOX_DRIVER=docker
USER 65532:65532
VOLUME /data
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s CMD ["afarensis-server", "health"]
ENTRYPOINT ["afarensis-server"]
CMD ["serve"]
