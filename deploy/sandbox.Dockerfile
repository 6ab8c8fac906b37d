# The image that sessions of the `docker` driver run in: Python, what code imports, and the agent. Nothing in it is secret,
# and nothing of it can be written at run time. From the top of the repository:
#
#   make sandbox-image        or: docker build -f deploy/sandbox.Dockerfile -t afarensis-sandbox:<version> .
#
# BASE_IMAGE: any image with glibc and a Python 3.11 or newer that has venv.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /build
COPY requirements/guest.txt ./
RUN python3 -m venv /opt/afarensis/guest \
    && /opt/afarensis/guest/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r guest.txt \
    && /opt/afarensis/guest/bin/python -m pip uninstall --quiet --yes pip setuptools
COPY server/afarensis_server/sandbox /build/sandbox
RUN /opt/afarensis/guest/bin/python /build/sandbox/docker/image.py /build/sandbox /opt/afarensis/lib \
    && /opt/afarensis/guest/bin/python -m compileall -q /opt/afarensis/lib

FROM ${BASE_IMAGE}
ARG VERSION=unknown
LABEL org.opencontainers.image.title="Afarensis sandbox" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/afarensis /opt/afarensis
# Where the driver mounts each session's own.
RUN mkdir -p /mnt/data /mnt/inputs && chown 65532:65532 /mnt/data
USER 65532:65532
WORKDIR /mnt/data
ENTRYPOINT ["/opt/afarensis/guest/bin/python", "-I", "/opt/afarensis/lib/start.py"]
